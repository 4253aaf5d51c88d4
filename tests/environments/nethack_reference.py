"""Plays tasks in Python and writes what they gave, for nethack_parity_test.cc to compare with.

Each line of standard input asks for a play:

    OUT.safetensors TASK PLAYER SEED STEPS MAX_EPISODE_STEPS

A process forked for it plays, so that no play leaves anything to the next one; its wait status is then written as a
line to standard output.

NLE's own tasks are the package's classes; ONI's are written down here, from their description, on top of the package.
Players: `random`; `stairs` walks to stairs that are in sight and goes down; `things` often eats, drinks and casts. All
draw from SEED. Episode k is seeded SEED + k; the observation after an episode's end is the next one's first. The file
holds every observation array [STEPS + 1, ...], `action`, `reward`, `terminated`, `truncated` [STEPS], `seen` (how often
what a player is for came about) and, as `final/NAME` [episodes ended, ...], the observations in which episodes ended.
NLE presses the keys that quit a game before step() returns, and with them overwrites its observation: here they are held
back.
"""
import collections
import logging
import os
import re
import sys

import numpy as np
import safetensors.numpy
from nle import nethack
from nle.env import base, tasks

EXTENDED_ACTIONS = tasks.TASK_ACTIONS + (
    nethack.Command.CAST,
    nethack.Command.QUAFF,
    nethack.Command.PRAY,
    nethack.Command.PICKUP,
    nethack.Command.PAY,
)
SEEN = collections.Counter()


class Oni(tasks.NetHackScore):
    """How ONI's tasks play an action (environments/nethack/play.h)."""

    ITEM_QUESTION = re.compile(rb"What do you want to (?:eat|drink)\? \[(.)")
    KEPT = (b"You descend the stairs.", b"You feel more confident in")

    def message(self):
        return bytes(self.last_observation[self._message_index])

    def known_steps(self, observation, done, kept):
        while not done:
            internal = observation[self._internal_index]
            message = bytes(observation[self._message_index])
            if internal[3]:
                kept += [message] * any(words in message for words in self.KEPT)
                observation, done = self.nethack.step(base.ASCII_SPACE)
            elif internal[2]:
                observation, done = self.nethack.step(base.ASCII_ESC)
            else:
                if internal[1] and not any(w in message for w in base.SKIP_EXCEPTIONS + (b"drink",)):
                    observation, done = self.nethack.step(base.ASCII_ESC)
                break
        return observation, done

    def step(self, action):
        last = tuple(a.copy() for a in self.last_observation)
        key, kept = self.actions[action], []
        question = self.ITEM_QUESTION.search(self.message().split(b"\0")[0])
        if question:
            letter = question.group(1)
            takes = key == ord("y") and letter.isalpha()
            SEEN["items taken" if takes else "items declined"] += 1
            observation, done = self.nethack.step(ord(letter) if takes else ord(" "))
        else:
            observation, done = self.nethack.step(key)
            if key == nethack.Command.CAST and not done:
                SEEN["casts"] += 1
                observation, done = self.nethack.step(ord("a"))
        observation, done = self.known_steps(observation, done, kept)
        now = bytes(observation[self._message_index])
        if any(b"You feel more confident in" in m for m in [now] + kept):
            SEEN["skills"] += 1
            kept += [now] * any(words in now for words in self.KEPT)
            for more in (nethack.Command.ENHANCE, ord("a")):
                if not done:
                    observation, done = self.nethack.step(more)
            observation, done = self.known_steps(observation, done, kept)
        if kept and not done:
            SEEN["hidden messages"] += kept[-1] != bytes(observation[self._message_index])
            observation[self._message_index][:] = np.frombuffer(kept[-1], np.uint8)
        self._steps += 1
        self.last_observation = observation
        status = self._get_end_status(observation, done)
        reward = float(self._reward_fn(last, action, observation, status))
        return self._get_observation(observation), reward, bool(done or status), False, {}


class OniGoal(Oni):
    """Fifty when the goal is reached for the first time; the end, unless `continual`."""

    REACHED = 3

    def __init__(self, at_goal, continual, **kwargs):
        self.at_goal, self.continual, self.reached = at_goal, continual, False
        super().__init__(**kwargs)

    def reset(self, **kwargs):
        self.reached = False
        return super().reset(**kwargs)

    def _get_end_status(self, observation, done):
        self.now = False
        if done or self._check_abort(observation):
            return 1 if done else -1
        if not self.reached and self.at_goal(self, observation):
            self.now = self.reached = True
            SEEN["goals"] += 1
            return 0 if self.continual else self.REACHED
        return 0

    def _reward_fn(self, last_observation, action, observation, end_status):
        return 50 * self.now


def descended_to(level):
    def at_goal(env, observation):
        message = bytes(observation[env._message_index])
        return b"You descend the stairs" in message and observation[env._blstats_index][24] == level

    return at_goal


def near_oracle(sober):
    def at_goal(env, observation):
        x, y = observation[env._blstats_index][:2]
        near = np.any(observation[env._glyph_index][y - 1 : y + 2, x - 1 : x + 2] == 270)
        return near and not (sober and observation[env._blstats_index][25] & 512)

    return at_goal


def make(task, **kwargs):
    own = getattr(tasks, "NetHack" + task, None)
    if task == "Challenge":  # whose class forbids seeds
        return tasks.NetHackScore(
            actions=nethack.ACTIONS, character="@", allow_all_yn_questions=True, allow_all_modes=True, penalty_step=-0.0,
            **kwargs,
        )
    if own is not None:
        return own(**kwargs)
    name = task.removesuffix("Extended")
    if name != task:
        kwargs["actions"] = EXTENDED_ACTIONS
    if name == "Score":
        return Oni(**kwargs)
    if name.startswith("Oracle"):
        return OniGoal(near_oracle(name == "OracleSober"), False, **kwargs)
    level = re.fullmatch(r"StaircaseLvl(\d)(Continual)?", name)
    return OniGoal(descended_to(int(level.group(1))), level.group(2) is not None, **kwargs)


DIRECTIONS = {"k": (-1, 0), "l": (0, 1), "j": (1, 0), "h": (0, -1), "u": (-1, 1), "n": (1, 1), "b": (1, -1), "y": (-1, -1)}


class Player:
    def __init__(self, kind, env, rng):
        self.kind, self.rng, self.last = kind, rng, None
        self.index = {int(key): i for i, key in enumerate(env.actions)}
        self.actions = len(env.actions)

    def __call__(self, observation):
        if self.kind == "stairs":
            return self.to_stairs(observation)
        if self.kind == "things" and self.rng.random() < 0.5:
            keys = [ord(k) for k in "eqZyy"] + [ord("y")]
            return self.index.get(int(self.rng.choice(keys)), self.index[ord("y")])
        return int(self.rng.integers(self.actions))

    def to_stairs(self, observation):
        x, y = observation["blstats"][:2]
        place = (int(observation["blstats"][24]), int(x), int(y))
        stuck, self.last = place == self.last, place
        if observation["internal"][4]:
            return self.index[ord(">")]
        step = None if stuck else self.path(observation["chars"], (int(y), int(x)))
        if step is None:
            return int(self.rng.integers(17))  # a direction, near or far, or "more"
        return self.index[ord(step)]

    @staticmethod
    def path(chars, start):
        """The first step of a shortest way to a '>' over what can be walked on."""
        if not (chars == ord(">")).any():
            return None
        walkable = set(b".#<>_{%$?!/=\"+()[*`")
        first = {start: None}
        queue = collections.deque([start])
        while queue:
            here = queue.popleft()
            if chars[here] == ord(">") and here != start:
                return first[here]
            for key, (dy, dx) in DIRECTIONS.items():
                there = (here[0] + dy, here[1] + dx)
                if not (0 <= there[0] < 21 and 0 <= there[1] < 79) or there in first or chars[there] not in walkable:
                    continue
                first[there] = first[here] or key
                queue.append(there)
        return None


def main(out, task, player, seed, steps, max_episode_steps):
    # Asking for screen_descriptions changes the game.
    logging.disable(logging.WARNING)
    keys = tuple(key for key in nethack.OBSERVATION_DESC if key != "screen_descriptions")
    env = make(task, observation_keys=keys, max_episode_steps=max_episode_steps, fix_moon_phase=True)
    env._quit_game = lambda observation, done: None
    play = Player(player, env, np.random.default_rng(seed))
    arrays = {key: np.zeros((steps + 1, *v["shape"]), v["dtype"]) for key, v in nethack.OBSERVATION_DESC.items()
              if key in keys}
    final = {key: [] for key in keys}
    action = np.zeros(steps, np.int64)
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

    observation = reset()
    store(0, observation)
    for step in range(steps):
        action[step] = play(observation)
        observation, reward[step], terminated[step], truncated[step], _ = env.step(int(action[step]))
        SEEN["rewards"] += reward[step] > 0
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
        {**arrays, "action": action, "reward": reward, "terminated": terminated, "truncated": truncated}, out,
        {key: str(int(value)) for key, value in SEEN.items()})


if __name__ == "__main__":
    for line in sys.stdin:
        if os.fork() == 0:
            out, task, player, *numbers = line.split()
            main(out, task, player, *map(int, numbers))
            break
        print(os.wait()[1], flush=True)
