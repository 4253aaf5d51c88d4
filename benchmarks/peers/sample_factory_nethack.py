#!/usr/bin/env python3
"""Sample Factory on NetHackScore, with ONI's network in the shape of policy/nethack_oni.h."""
import argparse

import torch
from gymnasium import spaces
from nle.env.tasks import NetHackScore
from sample_factory.model.encoder import Encoder
from sample_factory_measure import Task, main
from torch import Tensor, nn
from torch.nn.functional import elu

CROP, BEFORE, TILE = 12, 6, 6
GLYPHS, COLOURS = 96, 16
STATUS, MESSAGE, HIDDEN, PICTURE, STATE = 27, 256, 128, 512, 512
# What each of blstats is divided by, as in policy/nethack_oni.cc.
STATUS_UNITS = [79, 21, 100, *[20] * 6, 1000, 20, 20, 10, 500, 20, 20, 10, 10, 10, 1000, 2000, 2, 2, 4, 10, 100, 1]


def make_env(_name, _cfg=None, _env_config=None, _render_mode=None) -> NetHackScore:
    """NLE's own task: 23 actions, at most 5,000 steps. Arrays that the network does not read are not asked for."""
    return NetHackScore(observation_keys=("chars", "colors", "blstats", "message"))


def tile_table() -> Tensor:
    """[GLYPHS * COLOURS, TILE, TILE, 3]: a picture of each character in each colour; the font is noise, which costs the
    same time as a real one."""
    random = torch.Generator().manual_seed(1)
    ink = (torch.rand(GLYPHS, 1, TILE, TILE, 1, generator=random) < 0.35).float()
    colours = torch.rand(1, COLOURS, 1, 1, 3, generator=random)
    return (ink * colours).view(-1, TILE, TILE, 3)


class OniEncoder(Encoder):
    """All of ONI's network before the GRU, which Sample Factory adds, and so the heads.

    The 12x12 cells around the hero are cut out and drawn here, for a whole batch at once and into channels-last memory;
    ONI draws them in the environment and ships 15 KB a step.
    """

    def __init__(self, cfg, _observation_space: spaces.Dict):
        super().__init__(cfg)
        self.conv1 = nn.Conv2d(3, 32, 8, 4)
        self.conv2 = nn.Conv2d(32, 64, 4, 2)
        self.conv3 = nn.Conv2d(64, 128, 3, 2)
        self.picture = nn.Linear(128 * 3 * 3, PICTURE)
        self.status = nn.Sequential(nn.Linear(STATUS, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, HIDDEN), nn.ELU())
        self.message = nn.Sequential(nn.Linear(MESSAGE, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, HIDDEN), nn.ELU())
        # A glyph's pixel rows one after another: [GLYPHS * COLOURS * TILE, TILE * 3].
        self.register_buffer("strips", tile_table().view(-1, TILE * 3), persistent=False)
        self.register_buffer("status_scale", 1 / torch.tensor(STATUS_UNITS), persistent=False)

    def get_out_size(self) -> int:
        return PICTURE + 2 * HIDDEN + STATUS

    def type_for_input_tensor(self, name: str) -> torch.dtype:
        return torch.uint8 if name in ("chars", "colors") else torch.float32

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        blstats = observations["blstats"]
        x = elu(self.conv1(self.draw(observations["chars"], observations["colors"], blstats[:, :2].long())))
        x = elu(self.conv3(elu(self.conv2(x))))
        picture = elu(self.picture(x.permute(0, 2, 3, 1).flatten(1)))  # a view, as the memory is channels-last
        scaled = (blstats * self.status_scale).clamp(-5, 5)
        return torch.cat([picture, self.status(scaled), self.message(observations["message"] / 128), scaled], 1)

    def draw(self, chars: Tensor, colours: Tensor, hero: Tensor) -> Tensor:
        """[N, 21, 79] twice and the hero's (column, row) to pictures [N, 3, 72, 72]."""
        count, rows, columns = chars.shape
        offset = torch.arange(-BEFORE, CROP - BEFORE)
        x, y = hero[:, :1] + offset, hero[:, 1:] + offset
        cell = (y.clamp(0, rows - 1) * columns).unsqueeze(2) + x.clamp(0, columns - 1).unsqueeze(1)
        cell = cell.view(count, -1)
        char = chars.view(count, -1).gather(1, cell)
        colour = colours.view(count, -1).gather(1, cell)
        # Bytes below 32 wrap around to the top, and so to the last glyph.
        tile = (char - 32).clamp_max(GLYPHS - 1).long() * COLOURS + (colour & (COLOURS - 1))
        outside = ((x < 0) | (x >= columns)).unsqueeze(1) | ((y < 0) | (y >= rows)).unsqueeze(2)
        tile = tile.view(count, CROP, 1, CROP).masked_fill(outside.unsqueeze(2), 0)
        strip = tile * TILE + torch.arange(TILE).view(TILE, 1)  # [N, CROP, TILE, CROP]
        pixels = self.strips.index_select(0, strip.view(-1))
        return pixels.view(count, CROP * TILE, CROP * TILE, 3).permute(0, 3, 1, 2)


def make_task(_options: argparse.Namespace) -> Task:
    settings = {
        "num_workers": 2, "num_envs_per_worker": 16, "worker_num_splits": 2,
        "use_rnn": True, "rnn_type": "gru", "rnn_size": STATE, "nonlinearity": "elu", "reward_scale": 0.1,
        "reward_clip": 10,
    }  # fmt: skip
    return Task("nethack_score", make_env, OniEncoder, settings)


if __name__ == "__main__":
    main(make_task, argparse.ArgumentParser(description=__doc__, epilog="Other flags are Sample Factory's."))
