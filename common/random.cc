#include "common/random.h"

#include <random>

namespace sibyl {

uint64_t FreshRandom64() {
  std::random_device device;
  uint64_t value = 0;
  while (value == 0) value = (uint64_t{device()} << 32) | device();
  return value;
}

uint64_t EpisodeSeed(uint64_t run_seed, uint32_t slot, uint32_t environment, uint64_t episode) {
  uint64_t seed = Mix64(run_seed) ^ ((uint64_t{slot} << 32) | environment);
  seed = Mix64(Mix64(seed) ^ episode) >> 1;
  return seed < kFirstTrainingSeed ? seed + kFirstTrainingSeed : seed;
}

}  // namespace sibyl
