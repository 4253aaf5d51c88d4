#!/usr/bin/env python3
"""Sample Factory on MiniGrid's DoorKey-8x8, with networks in the shape of policy/mlp.cc and minigrid_conv_gru.cc."""
import argparse

import gymnasium
import minigrid  # registers its environments
import numpy
import torch
from gymnasium import spaces
from sample_factory.model.encoder import Encoder
from sample_factory_measure import Task, main
from torch import Tensor, nn
from torch.nn.functional import elu, one_hot

VIEW, OBJECTS, CELL_COLOURS, STATES, DIRECTIONS = 7, 11, 6, 4, 4
FEATURES, STATE = 512, 128
WORKERS = 2


class Arrays(gymnasium.ObservationWrapper):
    """The view and the direction, without the mission's text."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = spaces.Dict({
            "image": spaces.Box(0, 255, (VIEW, VIEW, 3), numpy.uint8),
            "direction": spaces.Box(0, DIRECTIONS - 1, (1,), numpy.uint8),
        })  # fmt: skip

    def observation(self, observation: dict) -> dict[str, numpy.ndarray]:
        return {"image": observation["image"], "direction": numpy.array([observation["direction"]], numpy.uint8)}


def make_env(_name, _cfg=None, _env_config=None, _render_mode=None) -> gymnasium.Env:
    return Arrays(gymnasium.make("MiniGrid-DoorKey-8x8-v0", disable_env_checker=True))


class MlpEncoder(Encoder):
    """128-128 on all numbers of the observation: 36,616 parameters with the heads."""

    def __init__(self, cfg, _observation_space: spaces.Dict):
        super().__init__(cfg)
        self.layers = nn.Sequential(nn.Linear(VIEW * VIEW * 3 + 1, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())

    def get_out_size(self) -> int:
        return 128

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return self.layers(torch.cat([observations["image"].flatten(1), observations["direction"]], 1).log1p())


class ConvEncoder(Encoder):
    """One-hot cells, convolutions 16, 32, 64 (3x3), the direction, a layer of 512; Sample Factory adds the GRU."""

    def __init__(self, cfg, _observation_space: spaces.Dict):
        super().__init__(cfg)
        channels = OBJECTS + CELL_COLOURS + STATES
        self.conv1 = nn.Conv2d(channels, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.conv3 = nn.Conv2d(32, 64, 3)
        self.features = nn.Linear(64 + DIRECTIONS, FEATURES)
        cells = torch.cartesian_prod(torch.arange(OBJECTS), torch.arange(CELL_COLOURS), torch.arange(STATES))
        sizes = (OBJECTS, CELL_COLOURS, STATES)
        table = torch.cat([one_hot(cells[:, i], size) for i, size in enumerate(sizes)], 1).float()
        self.register_buffer("table", table, persistent=False)  # [cells there can be, channels]
        self.register_buffer("weights", torch.tensor([CELL_COLOURS * STATES, STATES, 1]), persistent=False)

    def get_out_size(self) -> int:
        return FEATURES

    def type_for_input_tensor(self, _name: str) -> torch.dtype:
        return torch.int64

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        code = (observations["image"] * self.weights).sum(-1)
        x = self.table.index_select(0, code.view(-1)).view(-1, VIEW, VIEW, self.table.shape[1])
        x = elu(self.conv3(elu(self.conv2(elu(self.conv1(x.permute(0, 3, 1, 2)))))))
        facing = one_hot(observations["direction"].squeeze(1), DIRECTIONS)
        return elu(self.features(torch.cat([x.flatten(1), facing], 1)))


def make_task(options: argparse.Namespace) -> Task:
    recurrent = options.network == "conv_gru"
    settings = {
        "num_workers": WORKERS, "num_envs_per_worker": options.environments // WORKERS, "worker_num_splits": 2,
        "use_rnn": recurrent, "rnn_type": "gru", "rnn_size": STATE, "nonlinearity": "relu",
        "learning_rate": 5e-4, "exploration_loss_coeff": 0.01,
    }  # fmt: skip
    name = f"minigrid_doorkey_{options.network}_{options.environments}"
    return Task(name, make_env, ConvEncoder if recurrent else MlpEncoder, settings)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, epilog="Other flags are Sample Factory's.")
    arguments.add_argument("--network", choices=["mlp", "conv_gru"], default="mlp")
    arguments.add_argument("--environments", type=int, default=32)
    main(make_task, arguments)
