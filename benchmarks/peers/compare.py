#!/usr/bin/env python3
"""Measures Sibyl and Sample Factory on the same work, in turn on the same machine, and prints a line of JSON.

    benchmarks/peers/compare.py nethack --python VENV/bin/python --pairs 5

Every second pair runs in the opposite order. A ratio is Sibyl's steps a second over Sample Factory's of the same pair.
"""
import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_LIMIT = 300  # seconds that a side may take on top of warm-up and window: Sample Factory hangs where it fails


class Comparison(NamedTuple):
    """The same work for both: the same task, network, environments, batch and unroll."""

    sibyl: list[str]  # a configuration, overrides
    peer: list[str]  # a script, its flags


def sibyl(config: str, *overrides: str) -> list[str]:
    """Without a judge and its reward, which Sample Factory has not."""
    sets = [f"--set={override}" for override in (*overrides, "reward.intrinsic_coefficient=0")]
    return [f"{ROOT}/configs/{config}.textproto", *sets]


def minigrid(network: str, policy: str, environments: int) -> Comparison:
    return Comparison(
        sibyl("minigrid_doorkey", f"actor.environments={environments}", f"policy.kind={policy}", "learner.epochs=1"),
        [f"{HERE}/sample_factory_minigrid.py", f"--network={network}", f"--environments={environments}"],
    )


COMPARISONS = {
    "nethack": Comparison(
        sibyl("nethack_score", "actor.processes=2", "actor.environments=16"),
        [f"{HERE}/sample_factory_nethack.py"],
    ),
    "minigrid_mlp_32": minigrid("mlp", "POLICY_KIND_MLP", 32),
    "minigrid_mlp_128": minigrid("mlp", "POLICY_KIND_MLP", 128),
    "minigrid_conv_gru_128": minigrid("conv_gru", "POLICY_KIND_MINIGRID_CONV_GRU", 128),
}


def cpu_seconds() -> tuple[float, float]:
    """Of the whole machine, and of the commands that have ended."""
    user, nice, system, _idle, _wait, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK"), commands.ru_utime + commands.ru_stime


def run(command: list[str], limit: float) -> dict[str, Any]:
    """Runs a command and parses the last line that it prints. Adds `busy_elsewhere`: how much of the machine's cores
    others used in the meantime, 0 to 1."""
    start, (machine, commands) = time.monotonic(), cpu_seconds()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        sys.exit(f"{' '.join(command)} took more than {limit:.0f} s; it said:\n{errors[-3000:]}")
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed; it said:\n{errors[-3000:]}")
    machine_after, commands_after = cpu_seconds()
    others = (machine_after - machine) - (commands_after - commands)
    share = others / (time.monotonic() - start) / (os.cpu_count() or 1)
    return {**json.loads(out.splitlines()[-1]), "busy_elsewhere": max(0.0, share)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    speeds = [r["steps_per_second"] for r in runs]
    return {
        "steps_per_second": [round(speed) for speed in speeds],
        "steps_per_second_median": round(statistics.median(speeds)),
        "busy_elsewhere": [round(r["busy_elsewhere"], 2) for r in runs],
        "wall_seconds": [round(r["wall_seconds"], 1) for r in runs],
        "cpu_seconds": [round(r["cpu_seconds"], 1) for r in runs],
        "cpu_seconds_per_million_steps_median": round(
            statistics.median(r["cpu_seconds_per_million_steps"] for r in runs), 1
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--python", required=True, help="of the environment that Sample Factory is installed in")
    parser.add_argument("--sibyl", default=f"{ROOT}/build/release/bin/sibyl")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30, help="that are measured, of each side in each pair")
    parser.add_argument("--warmup", type=int, default=10, help="seconds of training before that")
    parser.add_argument("--set", action="append", default=[], help="another override for Sibyl: field=value")
    parser.add_argument("--peer_flag", action="append", default=[], help="a flag for the other script: --name=value")
    options = parser.parse_args()

    comparison = COMPARISONS[options.comparison]
    times = ["--seconds", str(options.seconds), "--warmup", str(options.warmup)]
    overrides = [f"--set={override}" for override in options.set]
    commands = {
        "sibyl": [options.sibyl, "bench", "train", *comparison.sibyl, *overrides, *times],
        "sample_factory": [options.python, *comparison.peer, *times, *options.peer_flag],
    }
    limit = 2 * (options.warmup + options.seconds) + START_LIMIT
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for pair in range(options.pairs):
        for name in sorted(commands, reverse=pair % 2 == 0):
            runs[name].append(run(commands[name], limit))
            print(f"pair {pair + 1}: {name} {runs[name][-1]['steps_per_second']:.0f} steps/s", file=sys.stderr)
    ratios = [
        ours["steps_per_second"] / theirs["steps_per_second"]
        for ours, theirs in zip(runs["sibyl"], runs["sample_factory"])
    ]
    line = {
        "bench": "peers",
        "comparison": options.comparison,
        "cores": os.cpu_count(),
        **{name: summary(of_side) for name, of_side in runs.items()},
        "parameters": runs["sample_factory"][0]["parameters"],
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
