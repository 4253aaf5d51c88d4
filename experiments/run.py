#!/usr/bin/env python3
"""Trains each curve of a list with several seeds, one run after the other, and draws what came out.

    build/python/bin/python experiments/run.py experiments/keycorridor_s3r3.toml --seeds 1 2 3

Goes on where it was interrupted. Writes results.json, curves.png and report.html into the list's folder under --out.
"""
import argparse
import html
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, Iterator, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
import curves

ROOT = Path(__file__).resolve().parent.parent


class Curve(NamedTuple):
    """What is trained, and drawn as a line; in a list with panels, once in each of them."""

    name: str
    panel: str  # title of its panel; "" where there are none
    label: str
    steps: int
    overrides: list[str]
    baseline: bool


class List(NamedTuple):
    """What a list's file says; README.md describes the fields."""

    name: str
    title: str
    config: Path
    tag: str
    goal: float | None
    stop_after: int | None
    curves: list[Curve]


def load(path: Path) -> List:
    def refuse(what: str) -> None:
        sys.exit(f"{path}: {what}")

    def take(table: dict[str, Any], where: str, **fields: Any) -> dict[str, Any]:
        unknown = sorted(set(table) - set(fields))
        if unknown:
            refuse(f"{where} has `{unknown[0]}`, which is no field; there are: {', '.join(fields)}")
        return {name: table.get(name, otherwise) for name, otherwise in fields.items()}

    try:
        text = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        refuse(str(error))
    top = take(text, "the list", title=path.stem, config=None, steps=None, tag="episode/success_rate", goal=None,
               stop_after=None, set=[], curves={}, panels={})
    if top["config"] is None or not (path.parent / top["config"]).is_file():
        refuse(f"config is {top['config']!r}, must name a configuration file, relative to the list")
    if not isinstance(top["steps"], int) or top["steps"] < 1:
        refuse(f"steps is {top['steps']!r}, must be the environment steps of a run, at least 1")
    if not top["curves"]:
        refuse("there is no curve; add a table [curves.NAME]")
    panels = {}
    for name, table in top["panels"].items():
        fields = take(table, f"[panels.{name}]", title=name, set=[])
        panels[f"{name}_"] = (fields["title"], fields["set"])
    found = []
    for prefix, (panel, panel_set) in (panels or {"": ("", [])}).items():
        for name, table in top["curves"].items():
            fields = take(table, f"[curves.{name}]", label=name, steps=top["steps"], set=[], baseline=False)
            overrides = top["set"] + panel_set + fields["set"]
            for override in overrides:
                if "=" not in override:
                    refuse(f"set has `{override}`, must be field=value")
            found.append(Curve(prefix + name, panel, fields["label"], fields["steps"], overrides, fields["baseline"]))
    config = (path.parent / top["config"]).resolve()
    return List(path.stem, top["title"], config, top["tag"], top["goal"], top["stop_after"], found)


def name_of(curve: Curve) -> str:
    return f"{curve.panel}, {curve.label}" if curve.panel else curve.label


def command(sibyl: Path, plan: List, curve: Curve, seed: int, folder: Path) -> list[str]:
    sets = [*curve.overrides, f"seed={seed}", f"total_steps={curve.steps}", f"name={plan.name}-{curve.name}"]
    return [str(sibyl), "train", str(plan.config), *(f"--set={item}" for item in sets), f"--run_dir={folder}"]


def train(line: list[str], folder: Path, plan: List) -> bool:
    """Runs to its end, or to `stop_after` steps behind the goal. Whether it was stopped there."""
    resume = (folder / "checkpoints").is_dir()
    log = (folder.parent / f"{folder.name}.log").open("a")
    process = subprocess.Popen(line + ["--resume"] * resume, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    stopped = False
    try:
        while process.poll() is None:
            time.sleep(1)
            if plan.goal is None or plan.stop_after is None or stopped:
                continue
            points = curves.read(folder, plan.tag)
            reached = curves.first_reached(points, plan.goal)
            if reached is not None and points[-1][0] >= reached + plan.stop_after:
                stopped = True
                process.send_signal(signal.SIGINT)
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if process.returncode != 0 and not stopped:  # 130 where it was
        sys.exit(f"{shlex.join(line)}\nended with status {process.returncode}; see {log.name}")
    return stopped


def result(plan: List, curve: Curve, seed: int, folder: Path, line: list[str], stopped: bool) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    points = curves.read(folder, plan.tag)
    kept = ("steps", "episodes", "success_rate", "mean_return", "steps_per_second", "train_seconds", "captions_seen",
            "captions_asked", "captions_labelled", "label_share_of_steps", "judge", "restarts")
    return {
        "curve": curve.name,
        "seed": seed,
        "goal_after": None if plan.goal is None else curves.first_reached(points, plan.goal),
        "stopped_after_goal": stopped,
        "last": points[-1][1] if points else None,
        **{name: summary.get(name) for name in kept},
        "command": shlex.join(line),
    }


def runs(plan: List, wanted: list[str], seeds: list[int], out: Path, sibyl: Path) -> Iterator[dict[str, Any]]:
    """Results of the curves that are wanted, trained where they are not there yet, and of the others that are there."""
    for seed in seeds:
        for curve in plan.curves:
            folder = out / f"{curve.name}-{seed}"
            done = out / f"{curve.name}-{seed}.json"
            line = command(sibyl, plan, curve, seed, folder)
            if not done.exists():
                if curve.name not in wanted:
                    continue
                print(f"{name_of(curve)}, seed {seed}: {folder}", flush=True)
                stopped = train(line, folder, plan)
                done.write_text(json.dumps(result(plan, curve, seed, folder, line, stopped), indent=1) + "\n")
            yield json.loads(done.read_text())


def shown_steps(steps: int | None, budget: int) -> str:
    return f"not in {budget / 1e6:.3g}M" if steps is None else f"{steps / 1e6:.2f}M"


def summary(plan: List, results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of a table, its head first: a row a curve. Where the list has a goal: steps to it by seed, their mean, the ratio
    to the baseline's of the same panel."""
    budgets = {curve.name: curve.steps for curve in plan.curves}
    goal_head = ["steps to the goal, by seed", "mean", "baseline's steps / its own"]
    head = ["curve", *([] if plan.goal is None else goal_head), "last value", "captions seen / asked / labelled",
            "share of steps asked about", "restarts"]

    def mean(name: str) -> tuple[float, bool]:
        """Of the steps to the goal; a run that never got there counts its budget, and makes it a bound."""
        own = [r["goal_after"] for r in results if r["curve"] == name]
        return sum(budgets[name] if g is None else g for g in own) / max(1, len(own)), None in own

    def towards_goal(curve: Curve, own: list[dict[str, Any]]) -> list[str]:
        steps, bound = mean(curve.name)
        baseline = next((other.name for other in plan.curves if other.baseline and other.panel == curve.panel), curve.name)
        ratio = ""
        if baseline != curve.name and any(r["curve"] == baseline for r in results):
            base, base_bound = mean(baseline)
            sign = "" if bound == base_bound else "at least " if base_bound else "at most "
            ratio = "neither got there" if bound and base_bound else f"{sign}{base / steps:.1f}"
        by_seed = ", ".join(shown_steps(r["goal_after"], curve.steps) for r in own)
        return [by_seed, "" if bound else f"{steps / 1e6:.2f}M", ratio]

    rows = [head]
    for curve in plan.curves:
        own = sorted((r for r in results if r["curve"] == curve.name), key=lambda r: r["seed"])
        if not own:
            continue
        rows.append([
            name_of(curve),
            *([] if plan.goal is None else towards_goal(curve, own)),
            ", ".join("-" if r["last"] is None else f"{r['last']:.3g}" for r in own),
            ", ".join(f"{r['captions_seen']} / {r['captions_asked']} / {r['captions_labelled']}" for r in own),
            ", ".join(f"{100 * (r['label_share_of_steps'] or 0):.4f} %" for r in own),
            ", ".join(str(sum(r["restarts"].values())) for r in own),
        ])
    return rows


def report(plan: List, results: list[dict[str, Any]], out: Path, image: str, invocation: str) -> None:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    goal = "" if plan.goal is None else f"The goal is {plan.tag} of {plan.goal:g}. "
    stop = ("" if plan.stop_after is None else
            f"A run ends {plan.stop_after:,} steps after it got there, and its last value is drawn on, dotted where all "
            "runs of a curve have ended. ")
    head, *rows = summary(plan, results)
    version = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    commands = "\n".join(r["command"] for r in results)
    (out / "report.html").write_text(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(plan.title)}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ border: 1px solid #ccc; padding: .3em .6em; text-align: left }}
th {{ background: #f4f4f4 }} img {{ max-width: 100% }} pre {{ overflow-x: auto; background: #f8f8f8; padding: 1em }}
</style></head><body>
<h1>{html.escape(plan.title)}</h1>
<p>{html.escape(goal + stop)}Lines are means over seeds, bands reach from the lowest to the highest seed.</p>
<img alt="learning curves" src="data:image/png;base64,{image}">
<table>{row(head, "th")}{"".join(row(r, "td") for r in rows)}</table>
<p>{html.escape(f"{platform.machine()}, {os.cpu_count()} cores; version {version.stdout.strip() or 'unknown'}.")} Made by</p>
<pre>{html.escape(invocation)}</pre><p>which ran</p><pre>{html.escape(commands)}</pre>
</body></html>
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--curves", nargs="+", help="train only these of the list's")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "experiments")
    parser.add_argument("--sibyl", type=Path, default=ROOT / "build" / "release" / "bin" / "sibyl")
    options = parser.parse_args()

    plan = load(options.list)
    names = [curve.name for curve in plan.curves]
    wanted = options.curves or names
    for name in wanted:
        if name not in names:
            sys.exit(f"--curves: there is no `{name}` in {options.list}; there are: {', '.join(names)}")
    if not options.sibyl.exists():
        sys.exit(f"{options.sibyl} is not there; build it (make build), or name it with --sibyl")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out = (options.out / plan.name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for one in runs(plan, wanted, options.seeds, out, options.sibyl.resolve()):
        results.append(one)
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        image = curves.draw(plan, results, out)
        report(plan, results, out, image, shlex.join(["experiments/run.py", *sys.argv[1:]]))
    shown = summary(plan, results)
    width = [max(len(cell) for cell in column) for column in zip(*shown)]
    for cells in shown:
        print("  ".join(cell.ljust(w) for cell, w in zip(cells, width)).rstrip())
    print(out / "report.html")


if __name__ == "__main__":
    main()
