"""Trains with Sample Factory and measures a window of it; what its NetHack and its MiniGrid benchmark share.

Prints a line of JSON under the names that `sibyl bench train` uses.
"""
import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import psutil
import torch
from gymnasium import Env
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.encoder import Encoder
from sample_factory.train import make_runner

# As in Sibyl's configurations, but for V-trace: 2.1.1's stops with "no attribute 'advantages'" when it first reports
# its losses. Its own default, generalised advantages, is no more work.
SHARED_SETTINGS = {
    "batch_size": 1024, "rollout": 32, "num_epochs": 1, "num_batches_per_epoch": 1,
    "with_vtrace": False, "normalize_returns": False, "normalize_input": False,
    "gamma": 0.99, "learning_rate": 1e-4, "adam_eps": 1e-6, "ppo_clip_ratio": 0.1, "ppo_clip_value": 1.0,
    "exploration_loss_coeff": 0.003, "max_grad_norm": 4.0, "max_policy_lag": 10000,
    "device": "cpu", "async_rl": True, "env_frameskip": 1, "save_every_sec": 60,
    # It would begin with up to 2,000 random steps in each environment, which would reach into the window.
    "decorrelate_envs_on_one_worker": False,
}  # fmt: skip
KEPT_BLOCK_BYTES = 1 << 30


class Task(NamedTuple):
    """A thing to train on."""

    name: str
    make_env: Callable[..., Env]  # (name, cfg, env_config, render_mode)
    make_encoder: Callable[..., Encoder]  # (cfg, observation_space)
    settings: dict[str, object]  # of Sample Factory, over the shared ones


class Moment(NamedTuple):
    time: float
    steps: int  # environment frames that the learner has trained on
    cpu_seconds: float  # user and system time of all processes


class Window(AlgoObserver):
    """Looks at the first training iteration after the warm-up and the first one after the window, then ends the run.

    The rate between the two is exact: both lie at the end of a batch.
    """

    def __init__(self, warmup: float, seconds: float):
        self._waits = [warmup, seconds]  # until each of the moments, counted from the one before
        self._since: float | None = None
        self.moments: list[Moment] = []

    def on_training_step(self, runner: Runner, _iteration: int) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if len(self.moments) == len(self._waits) or now < self._since + self._waits[len(self.moments)]:
            return
        self._since = now
        self.moments.append(Moment(now, sum(runner.env_steps.values()), tree_cpu_seconds()))
        if len(self.moments) == len(self._waits):
            runner.cfg.train_for_env_steps = 0  # the runner looks at this next, and stops


def tree_cpu_seconds() -> float:
    """User and system time of this process and everything that it started and that still runs."""
    here = psutil.Process()
    times = [process.cpu_times() for process in [here, *here.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


def make_encoder(make: Callable[..., Encoder], threads: int, *arguments: object) -> Encoder:
    """Runs in the learner and in each policy worker, after Sample Factory has set its number of threads."""
    if threads > 0:
        torch.set_num_threads(threads)
    return make(*arguments)


def settings_as_flags(settings: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def measure(task: Task, options: argparse.Namespace) -> dict[str, object]:
    register_env(task.name, task.make_env)
    global_model_factory().register_encoder_factory(partial(make_encoder, task.make_encoder, options.torch_threads))
    window = Window(options.warmup, options.seconds)
    with tempfile.TemporaryDirectory(prefix="sample-factory-") as folder:
        own = {
            "env": task.name, "experiment": "benchmark", "train_dir": folder,
            "default_niceness": os.nice(0),  # it would set its learner's to 0
        }  # fmt: skip
        flags = settings_as_flags({**SHARED_SETTINGS, **task.settings, **own}) + options.flags
        parser, _ = parse_sf_args(flags)
        cfg, runner = make_runner(parse_full_cfg(parser, flags))
        runner.register_observer(window)
        status = runner.init()
        if status == ExperimentStatus.SUCCESS:
            status = runner.run()
    if status != ExperimentStatus.SUCCESS or len(window.moments) < 2:
        raise SystemExit("Sample Factory failed; its log above says why")
    before, after = window.moments
    model = create_actor_critic(cfg, runner.env_info.obs_space, runner.env_info.action_space)
    wall, steps, cpu = (b - a for a, b in zip(before, after))
    return {
        "bench": "sample_factory",
        "task": task.name,
        "steps_per_second": steps / wall,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "cpu_seconds_per_million_steps": cpu / steps * 1e6,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "environments": cfg.num_workers * cfg.num_envs_per_worker,
        "flags": options.flags,
    }


def main(make_task: Callable[[argparse.Namespace], Task], parser: argparse.ArgumentParser) -> None:
    """Parses the command line, measures, prints."""
    parser.add_argument("--seconds", type=float, default=20, help="that are measured")
    parser.add_argument("--warmup", type=float, default=10, help="seconds of training before")
    parser.add_argument("--malloc", choices=["kept", "default"], default="kept", help="glibc's thresholds")
    parser.add_argument("--torch_threads", type=int, default=0, help="0: as Sample Factory has it, 1; serial mode: all")
    options, options.flags = parser.parse_known_args()  # the rest is Sample Factory's, over what is set here
    if options.malloc == "kept":
        # Read by glibc at the start of a process: of the learner and the workers, which are yet to come.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = str(KEPT_BLOCK_BYTES)
    print(json.dumps(measure(make_task(options), options)), flush=True)
