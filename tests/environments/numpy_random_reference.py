"""Prints numbers that numpy.random.Generator draws; numpy_random_test.cc draws the same and compares.

A line for each draw, in the order of the calls below: "seed NUMBER", then the numbers.
"""

import numpy as np

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 12345, 2**63 - 1, 2**64 - 1]
BOUNDS = [(0, 1), (0, 2), (0, 6), (-3, 4), (5, 12), (0, 2**31 + 1), (0, 2**32 - 1), (0, 2**32), (0, 2**32 + 1)]
BOUNDS += [(-(2**62), 2**62 + 7), (-(2**63), 2**63 - 1)]

for seed in SEEDS:
    print("seed", seed)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    # Small, large and full ranges in turn, so that the halved draws and the whole ones mix.
    for _ in range(40):
        for low, high in BOUNDS:
            print(generator.integers(low, high))
    for length in [0, 1, 2, 6, 8, 100]:
        items = list(range(length))
        generator.shuffle(items)
        print(*items)
        print(*generator.permutation(length))
    for length in [1, 2, 7, 100]:
        print(generator.choice(range(10, 10 + length)))
    # The rejection of Lemire's method is frequent just above a power of two.
    print(*[generator.integers(0, 2**31 + 1) for _ in range(200)])
    print(*[generator.integers(0, 2**62 + 2**61 + 1) for _ in range(200)])
