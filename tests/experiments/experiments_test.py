"""experiments/: reading and putting together curves, a list's errors, and a list of real runs that is interrupted."""
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
import curves
import run

SIBYL = Path(os.environ["SIBYL_BIN_DIR"]) / "sibyl"


def event_file(points: list[tuple[int, float]], tag: str = "episode/success_rate") -> bytes:
    """TensorBoard's format, without its checksums, which are not read."""

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes(out + bytes([value]))

    data = b""
    for step, number in points:
        value = b"\x0a" + varint(len(tag)) + tag.encode() + b"\x15" + struct.pack("<f", number)
        summary = b"\x0a" + varint(len(value)) + value
        event = b"\x09" + struct.pack("<d", 1.0) + b"\x10" + varint(step) + b"\x2a" + varint(len(summary)) + summary
        data += struct.pack("<Q", len(event)) + bytes(4) + event + bytes(4)
    return data


class CurvesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.run = Path(self.folder.name)
        (self.run / "curves").mkdir()

    def test_later_files_replace_what_a_resumed_run_went_over_again(self) -> None:
        first, second = self.run / "curves" / "a", self.run / "curves" / "b"
        first.write_bytes(event_file([(100, 0.25), (200, 0.5), (300, 0.75)]) + b"\x40\x00")  # and one being written
        second.write_bytes(event_file([(250, 0.5), (300000, 1)]))
        os.utime(first, (1, 1))
        self.assertEqual(curves.read(self.run, "episode/success_rate"), [(100, 0.25), (200, 0.5), (250, 0.5), (300000, 1)])
        self.assertEqual(curves.read(self.run, "episode/return"), [])

    def test_a_goal_is_reached_where_the_next_point_confirms_it(self) -> None:
        self.assertEqual(curves.first_reached([(1, 0.95), (2, 0.1), (3, 0.9), (4, 0.9)], 0.9), 3)
        self.assertIsNone(curves.first_reached([(1, 0.95), (2, 0.1), (3, 0.9)], 0.9))

    def test_seeds_are_put_together_on_one_grid(self) -> None:
        runs = [[(0, 0.0), (100, 1.0)], [(50, 0.5), (60, 0.5)]]
        rows = curves.together(runs, [0, 50, 55, 200])
        self.assertEqual(rows, [(0, 0, 0, 0), (50, 0.5, 0.5, 0.5), (55, 0.525, 0.5, 0.55), (200, 0.75, 0.5, 1)])


class TableTest(unittest.TestCase):
    def test_ratios_are_bounds_where_a_run_never_got_there(self) -> None:
        plan = run.List("x", "X", Path("c"), "episode/success_rate", 0.9, None, [
            run.Curve("base", "", "base", 1_000_000, [], True), run.Curve("ours", "", "ours", 1_000_000, [], False)])

        def result(curve: str, seed: int, goal: int | None) -> dict:
            return {"curve": curve, "seed": seed, "goal_after": goal, "last": 1.0, "captions_seen": 1, "captions_asked": 1,
                    "captions_labelled": 1, "label_share_of_steps": 0.5, "restarts": {"learner": 0, "actor-0": 2}}

        def ratio(base: list, ours: list) -> str:
            results = [result("base", i, g) for i, g in enumerate(base)] + [result("ours", i, g) for i, g in enumerate(ours)]
            head, *_, row = run.summary(plan, results)
            self.assertEqual(dict(zip(head, row))["restarts"], ", ".join("2" for _ in ours))
            return dict(zip(head, row))["baseline's steps / its own"]

        self.assertEqual(ratio([500_000, 300_000], [100_000, 100_000]), "4.0")
        self.assertEqual(ratio([None, 300_000], [100_000, 100_000]), "at least 6.5")
        self.assertEqual(ratio([500_000, 300_000], [None, 100_000]), "at most 0.7")
        self.assertEqual(ratio([None], [None]), "neither got there")
        self.assertEqual(ratio([], [100_000]), "", "the baseline was not run")


class PanelsTest(unittest.TestCase):
    def test_a_curve_is_compared_within_its_panel(self) -> None:
        plan = run.List("x", "X", Path("c"), "episode/success_rate", 0.9, None, [
            run.Curve(f"{panel}_{curve}", panel, curve, 1_000_000, [], curve == "base")
            for panel in ("a", "b") for curve in ("base", "ours")])
        goals = {"a_base": 100_000, "a_ours": 50_000, "b_base": 900_000, "b_ours": 100_000}
        results = [{"curve": curve, "seed": 1, "goal_after": goal, "last": 1.0, "captions_seen": 1, "captions_asked": 1,
                    "captions_labelled": 1, "label_share_of_steps": 0.5, "restarts": {}} for curve, goal in goals.items()]
        rows = run.summary(plan, results)[1:]
        self.assertEqual([(row[0], row[3]) for row in rows], [("a, base", ""), ("a, ours", "2.0"), ("b, base", ""), ("b, ours", "9.0")])

    def test_without_a_goal_nothing_is_said_of_one(self) -> None:
        plan = run.List("x", "X", Path("c"), "episode/return", None, None, [run.Curve("a", "", "a", 1, [], False)])
        self.assertNotIn("mean", run.summary(plan, [])[0])

    def test_every_panel_has_every_curve(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "list.toml"
            path.write_text(f'''config = "{ROOT / "configs" / "minigrid_doorkey.textproto"}"
steps = 5
set = ["a=1"]
[panels.small]
title = "Small"
set = ["b=2"]
[panels.large]
[curves.one]
set = ["c=3"]
[curves.two]
''')
            found = run.load(path).curves
        self.assertEqual([(c.name, c.panel, c.label) for c in found], [
            ("small_one", "Small", "one"), ("small_two", "Small", "two"), ("large_one", "large", "one"), ("large_two", "large", "two")])
        self.assertEqual(found[0].overrides, ["a=1", "b=2", "c=3"])
        self.assertEqual(found[3].overrides, ["a=1"])


class ListTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.config = ROOT / "configs" / "minigrid_doorkey.textproto"

    def write(self, text: str) -> Path:
        path = self.folder / "tiny.toml"
        path.write_text(text.replace("CONFIG", str(self.config)))
        return path

    def refusal(self, text: str) -> str:
        with self.assertRaises(SystemExit) as refused:
            run.load(self.write(text))
        return str(refused.exception)

    def test_errors_name_the_file_the_thing_and_the_remedy(self) -> None:
        self.assertIn("tiny.toml: config is None, must name", self.refusal('steps = 1'))
        self.assertIn("steps is 0, must be", self.refusal('config = "CONFIG"\nsteps = 0\n[curves.a]'))
        self.assertIn("there is no curve", self.refusal('config = "CONFIG"\nsteps = 5'))
        self.assertIn("the list has `step`", self.refusal('config = "CONFIG"\nstep = 5\n[curves.a]'))
        self.assertIn("[panels.b] has `sets`", self.refusal('config = "CONFIG"\nsteps = 5\n[curves.a]\n[panels.b]\nsets = []'))
        self.assertIn("[curves.a] has `sets`", self.refusal('config = "CONFIG"\nsteps = 5\n[curves.a]\nsets = []'))
        self.assertIn("`seed`, must be field=value", self.refusal('config = "CONFIG"\nsteps = 5\n[curves.a]\nset = ["seed"]'))
        self.assertIn("tiny.toml", self.refusal("nonsense"))

    def test_every_list_that_is_there_can_be_run(self) -> None:
        for path in sorted((ROOT / "experiments").glob("*.toml")):
            plan = run.load(path)
            for curve in plan.curves:
                with self.subTest(list=path.name, curve=curve.name):
                    sets = [f"--set={item}" for item in curve.overrides]
                    done = subprocess.run([SIBYL, "config", plan.config, *sets], capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, done.stderr)

    def test_an_interrupted_list_goes_on(self) -> None:
        # Steps enough for two points of a curve, a second apart, on a quick machine too.
        path = self.write('''config = "CONFIG"
steps = 300_000
tag = "episode/length"
goal = 1.0
stop_after = 1_000_000
set = ["actor.environments=16", "learner.batch_size=256", "policy.kind=POLICY_KIND_MLP"]
[curves.with]
[curves.without]
set = ["reward.intrinsic_coefficient=0"]
baseline = true
''')
        command = [sys.executable, ROOT / "experiments" / "run.py", path, "--seeds", "1", "--out", self.folder / "out",
                   "--sibyl", SIBYL]
        out = self.folder / "out" / "tiny"
        first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while not (out / "with-1.json").exists():  # in the middle of the second run, or before it
            self.assertIsNone(first.poll())
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        first.communicate()
        self.assertNotEqual(first.returncode, 0)
        done_at = (out / "with-1.json").stat().st_mtime_ns
        again = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual((out / "with-1.json").stat().st_mtime_ns, done_at, "what was done is not done again")
        results = json.loads((out / "results.json").read_text())
        self.assertEqual([r["curve"] for r in results], ["with", "without"])
        for one in results:
            self.assertGreaterEqual(one["steps"], 300_000)
            self.assertIsNotNone(one["goal_after"])
        self.assertTrue((out / "curves.png").read_bytes().startswith(b"\x89PNG"))
        report = (out / "report.html").read_text()
        self.assertIn("--set=reward.intrinsic_coefficient=0", report)
        self.assertIn("data:image/png;base64,", report)
        nobody = subprocess.run([*command, "--curves", "other"], capture_output=True, text=True)
        self.assertIn("there is no `other`", nobody.stderr)


if __name__ == "__main__":
    unittest.main()
