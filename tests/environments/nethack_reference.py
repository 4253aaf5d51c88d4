"""Plays NLE's NetHackScore and writes what it gave, for nethack_parity_test.cc to compare with.

    nethack_reference.py OUT.safetensors SEED STEPS MAX_EPISODE_STEPS

Actions are drawn from SEED. Episode k is seeded SEED + k; the observation after an episode's end is the next one's
first. The file holds every observation array [STEPS + 1, ...], `action`, `reward`, `terminated`, `truncated` [STEPS],
and, as `final/NAME` [episodes ended, ...], the observations in which episodes ended. NLE presses the keys that quit a
game at the step limit before step() returns, and with them overwrites its observation: here they are held back.
"""
import logging
import os
import sys

import numpy as np
import safetensors.numpy
from nle import nethack
from nle.env import tasks


class Reference(tasks.NetHackScore):
    def _quit_game(self, observation, done):
        pass


def main(out, seed, steps, max_episode_steps):
    # Asking for screen_descriptions changes the game.
    logging.disable(logging.WARNING)
    keys = tuple(key for key in nethack.OBSERVATION_DESC if key != "screen_descriptions")
    env = Reference(observation_keys=keys, max_episode_steps=max_episode_steps, fix_moon_phase=True)
    rng = np.random.default_rng(seed)
    arrays = {key: np.zeros((steps + 1, *v["shape"]), v["dtype"]) for key, v in nethack.OBSERVATION_DESC.items()
              if key in keys}
    final = {key: [] for key in keys}
    action = rng.integers(len(env.actions), size=steps)
    reward = np.zeros(steps, np.float32)
    terminated, truncated = np.zeros(steps, np.uint8), np.zeros(steps, np.uint8)

    episode = 0

    def reset():
        # NetHack's list of the best games outlives an episode, and the end of the next one shows it.
        open(os.path.join(env.nethack._vardir, "record"), "w").close()
        env.seed(core=seed + episode, disp=seed + episode, reseed=False)
        return env.reset()[0]

    def store(step, observation):
        for key in keys:
            arrays[key][step] = observation[key]

    store(0, reset())
    for step in range(steps):
        observation, reward[step], terminated[step], truncated[step], _ = env.step(int(action[step]))
        if terminated[step] or truncated[step]:
            for key in keys:
                final[key].append(observation[key].copy())
            episode += 1
            observation = reset()
        store(step + 1, observation)

    for key in keys:
        shape, dtype = nethack.OBSERVATION_DESC[key]["shape"], nethack.OBSERVATION_DESC[key]["dtype"]
        arrays["final/" + key] = np.array(final[key], dtype).reshape(episode, *shape)
    for name in list(arrays):
        if arrays[name].dtype == np.int8:
            arrays[name] = arrays[name].view(np.uint8)
    safetensors.numpy.save_file(
        {**arrays, "action": action.astype(np.int64), "reward": reward, "terminated": terminated,
         "truncated": truncated}, out)


if __name__ == "__main__":
    main(sys.argv[1], *(int(a) for a in sys.argv[2:5]))
