"""Plays Farama's MiniGrid and writes down what it shows; minigrid_parity_test.cc compares.

  minigrid_reference.py NAME EPISODES MAX_STEPS   plays a task (MAX_STEPS 0: the task's own)
  minigrid_reference.py names                     lists the package's tasks, one a line

Written to standard output, little-endian, an episode after the other:
  seed u64, step limit u32, mission (u32 length, UTF-8), image u8[147], direction u8, and for each step, up to the one
  that ends the episode: action u8, reward f64, terminated u8, truncated u8, image u8[147], direction u8.
"""

import collections
import random
import struct
import sys

import gymnasium
import minigrid  # registers its tasks  # noqa: F401

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
STEPS = [(1, 0), (0, 1), (-1, 0), (0, -1)]


def uniform(env, rng):
    while True:
        yield rng.randrange(7)


def eager(env, rng):
    """Random, but mostly walking and doing things."""
    while True:
        yield rng.choices(range(7), weights=[15, 15, 40, 12, 4, 13, 1])[0]


def turns(direction, wanted):
    return [[], [RIGHT], [RIGHT, RIGHT], [LEFT]][(wanted - direction) % 4]


def interest(env, thing, rng):
    """How much to want to handle a thing, and the action that does."""
    carried = env.unwrapped.carrying
    if thing.type == "door":
        if thing.is_open:
            return 0.2, TOGGLE
        if thing.is_locked:
            fits = carried and (carried.type, carried.color) == ("key", thing.color)
            return (20 if fits else 0.2), TOGGLE
        return 3, TOGGLE
    if thing.type == "box" and rng.random() < (0.5 if carried is None else 0.1):
        return 1, TOGGLE
    if thing.type in ("key", "ball", "box"):
        return (2 if carried is None else 0.1), PICKUP
    return {"goal": 3, "lava": 0.05}.get(thing.type, 0), FORWARD


def errand(env, rng):
    """The actions that walk to some reachable thing and handle it."""
    world = env.unwrapped
    if world.carrying and rng.random() < 0.3:
        return [rng.choice([LEFT, RIGHT]), DROP]
    start = (int(world.agent_pos[0]), int(world.agent_pos[1]))
    # Shortest ways by cells; a cell's entry is the actions to get there and the direction then.
    ways = {start: ([], int(world.agent_dir))}
    queue = collections.deque([start])
    choices = []
    while queue:
        at = queue.popleft()
        actions, direction = ways[at]
        for side, (dx, dy) in enumerate(STEPS):
            there = (at[0] + dx, at[1] + dy)
            if there in ways:
                continue
            thing = world.grid.get(*there)
            facing = actions + turns(direction, side)
            if thing is not None:
                weight, action = interest(env, thing, rng)
                if weight:
                    choices.append((weight, facing + [action]))
            if thing is None or (thing.type == "door" and thing.is_open):
                ways[there] = (facing + [FORWARD], side)
                queue.append(there)
    if not choices:
        return [rng.randrange(7)]
    return rng.choices(choices, weights=[weight for weight, _ in choices])[0][1]


def errands(env, rng):
    """Goes from thing to thing, with some random steps between."""
    while True:
        for action in errand(env, rng):
            if rng.random() < 0.03:
                yield rng.randrange(7)
                break
            yield action


def view(observation):
    return observation["image"].tobytes() + struct.pack("<B", observation["direction"])


def play(name, episodes, max_steps):
    package_id = "MiniGrid-" + name.removeprefix("minigrid/")
    if not package_id.endswith("-v1"):
        package_id += "-v0"
    options = {"max_steps": max_steps} if max_steps else {}
    env = gymnasium.make(package_id, disable_env_checker=True, **options).unwrapped
    rng = random.Random(name)
    out = sys.stdout.buffer
    for episode in range(episodes):
        # Seeds of one word and of two, and the largest.
        seed = episode if episode % 2 == 0 else rng.getrandbits(63)
        if episode == 1:
            seed = 2**63 - 1
        policy = [errands, uniform, errands, eager, errands][episode % 5](env, rng)
        observation, _ = env.reset(seed=seed)
        mission = observation["mission"].encode()
        out.write(struct.pack("<QII", seed, env.max_steps, len(mission)) + mission + view(observation))
        ended = False
        while not ended:
            action = next(policy)
            observation, reward, terminated, truncated, _ = env.step(action)
            assert observation["mission"].encode() == mission
            out.write(struct.pack("<BdBB", action, reward, terminated, truncated) + view(observation))
            ended = terminated or truncated


if __name__ == "__main__":
    if sys.argv[1] == "names":
        print("\n".join(name for name in gymnasium.registry if name.startswith("MiniGrid-")))
    else:
        play(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
