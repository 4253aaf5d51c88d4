#pragma once

#include <cstdint>

namespace sibyl {

// One step of SplitMix64 (Steele et al. 2014): a bijection on 64-bit numbers whose outputs look random.
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A small seeded generator for sampling and jitter; not for secrets.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return Mix64(state_++ * 0xda942042e4dd58b5u + 1); }
  // Uniform in [0, 1), 24 bits.
  float Uniform() { return static_cast<float>(Next() >> 40) * 0x1p-24f; }
  // Uniform in [0, n).
  uint64_t Below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * n) >> 64); }

 private:
  uint64_t state_;
};

// A random number that differs between processes and calls: leases, incarnations, run ids. Never 0.
uint64_t FreshRandom64();

// Seeds of evaluation and of `sibyl rollout` are used as given and must be below this; training never goes below it.
inline constexpr uint64_t kFirstTrainingSeed = uint64_t{1} << 32;

// The seed of a training episode; at least kFirstTrainingSeed and below 2^63.
// Two episodes of a run share a seed only if their hashes collide in 63 bits.
uint64_t EpisodeSeed(uint64_t run_seed, uint32_t slot, uint32_t environment, uint64_t episode);

}  // namespace sibyl
