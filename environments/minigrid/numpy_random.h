#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/types/span.h"

namespace sibyl::minigrid {

// The numbers that numpy.random.Generator(PCG64(SeedSequence(seed))) draws, in the same order: what Gymnasium gives an
// environment as `np_random` after reset(seed=seed). Generator.choice(n) is Integers(0, n), and Generator.permutation
// is Shuffle of a copy.
class NumpyRandom {
 public:
  explicit NumpyRandom(uint64_t seed);

  // The bit generator's own outputs. A 32-bit number is half of a 64-bit one; its other half is kept for the next call
  // of Next32, also past calls of Next64.
  uint64_t Next64();
  uint32_t Next32();

  // Generator.integers(low, high): uniform in [low, high). Needs low < high; draws nothing when one value is possible.
  int64_t Integers(int64_t low, int64_t high);

  // Generator.shuffle; at most 2^32 items.
  template <typename T>
  void Shuffle(absl::Span<T> items) {
    for (size_t i = items.size(); i-- > 1;) std::swap(items[i], items[Masked(static_cast<uint32_t>(i))]);
  }

 private:
  // Uniform in [0, max], by the two methods that numpy uses: multiplication for integers(), and drawing as many bits as
  // `max` has until they make a number in range for shuffle().
  uint64_t Multiplied(uint64_t max);
  uint32_t Masked(uint32_t max);

  unsigned __int128 state_ = 0;
  unsigned __int128 increment_ = 0;
  uint32_t spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace sibyl::minigrid
