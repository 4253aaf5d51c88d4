#include "environments/minigrid/numpy_random.h"

#include <array>
#include <bit>
#include <limits>

namespace sibyl::minigrid {
namespace {

using Uint128 = unsigned __int128;

constexpr uint32_t kMax32 = std::numeric_limits<uint32_t>::max();
constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

// SeedSequence hashes each word with a multiplier that itself moves on from word to word (numpy's NEP 19; O'Neill's
// seed_seq_fe).
class WordHash {
 public:
  constexpr WordHash(uint32_t initial, uint32_t step) : multiplier_(initial), step_(step) {}

  constexpr uint32_t operator()(uint32_t word) {
    word ^= multiplier_;
    multiplier_ *= step_;
    word *= multiplier_;
    return word ^ (word >> 16);
  }

 private:
  uint32_t multiplier_;
  const uint32_t step_;
};

constexpr uint32_t Mix(uint32_t x, uint32_t y) {
  const uint32_t mixed = 0xca01f9ddu * x - 0x4973f715u * y;
  return mixed ^ (mixed >> 16);
}

// SeedSequence(seed).generate_state(4, uint64), for a seed of at most four words.
std::array<uint64_t, 4> SeedWords(uint64_t seed) {
  std::array<uint32_t, 4> pool = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
  WordHash absorb(0x43b0d7e5u, 0x931e8875u);
  for (uint32_t& word : pool) word = absorb(word);
  for (size_t source = 0; source < pool.size(); ++source) {
    for (size_t target = 0; target < pool.size(); ++target) {
      if (source != target) pool[target] = Mix(pool[target], absorb(pool[source]));
    }
  }

  WordHash squeeze(0x8b51f9ddu, 0x58f38dedu);
  std::array<uint64_t, 4> words;
  for (size_t i = 0; i < words.size(); ++i) {
    const uint64_t low = squeeze(pool[(2 * i) % pool.size()]);
    const uint64_t high = squeeze(pool[(2 * i + 1) % pool.size()]);
    words[i] = low | high << 32;
  }
  return words;
}

constexpr Uint128 Join(uint64_t high, uint64_t low) { return Uint128{high} << 64 | low; }

// PCG64's multiplier (O'Neill 2014, the 128-bit LCG).
constexpr Uint128 kMultiplier = Join(2549297995355413924u, 4865540595714422341u);

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  const std::array<uint64_t, 4> words = SeedWords(seed);
  increment_ = Join(words[2], words[3]) << 1 | 1;
  // The generator is stepped once from state 0, offset by the seed, and stepped again.
  state_ = (increment_ + Join(words[0], words[1])) * kMultiplier + increment_;
}

uint64_t NumpyRandom::Next64() {
  state_ = state_ * kMultiplier + increment_;
  const uint64_t high = static_cast<uint64_t>(state_ >> 64);
  return std::rotr(high ^ static_cast<uint64_t>(state_), static_cast<int>(high >> 58));
}

uint32_t NumpyRandom::Next32() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const uint64_t both = Next64();
  spare_ = static_cast<uint32_t>(both >> 32);
  has_spare_ = true;
  return static_cast<uint32_t>(both);
}

int64_t NumpyRandom::Integers(int64_t low, int64_t high) {
  const uint64_t max = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) - 1;
  return static_cast<int64_t>(static_cast<uint64_t>(low) + Multiplied(max));
}

// Lemire's method ("Fast random integer generation in an interval", 2019), on 32-bit draws wherever they are enough.
uint64_t NumpyRandom::Multiplied(uint64_t max) {
  if (max == 0) return 0;
  if (max < kMax32) {
    const uint32_t values = static_cast<uint32_t>(max) + 1;
    uint64_t product = uint64_t{Next32()} * values;
    if (static_cast<uint32_t>(product) < values) {
      const uint32_t threshold = (kMax32 - static_cast<uint32_t>(max)) % values;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{Next32()} * values;
    }
    return product >> 32;
  }
  if (max == kMax32) return Next32();
  if (max == kMax64) return Next64();
  const uint64_t values = max + 1;
  Uint128 product = Uint128{Next64()} * values;
  if (static_cast<uint64_t>(product) < values) {
    const uint64_t threshold = (kMax64 - max) % values;
    while (static_cast<uint64_t>(product) < threshold) product = Uint128{Next64()} * values;
  }
  return static_cast<uint64_t>(product >> 64);
}

uint32_t NumpyRandom::Masked(uint32_t max) {
  const uint32_t mask = kMax32 >> std::countl_zero(max);
  uint32_t drawn;
  do drawn = Next32() & mask;
  while (drawn > max);
  return drawn;
}

}  // namespace sibyl::minigrid
