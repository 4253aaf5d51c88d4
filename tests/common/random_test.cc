#include "common/random.h"

#include <gtest/gtest.h>

#include <set>

namespace sibyl {
namespace {

TEST(EpisodeSeed, DiffersBetweenEpisodesEnvironmentsSlotsAndRuns) {
  std::set<uint64_t> seeds;
  for (uint64_t run = 0; run < 4; ++run) {
    for (uint32_t slot = 0; slot < 4; ++slot) {
      for (uint32_t environment = 0; environment < 16; ++environment) {
        for (uint64_t episode = 0; episode < 16; ++episode) {
          seeds.insert(EpisodeSeed(run, slot, environment, episode));
        }
      }
    }
  }
  EXPECT_EQ(seeds.size(), 4u * 4 * 16 * 16);
}

TEST(EpisodeSeed, StaysAboveTheSeedsOfEvaluation) {
  for (uint64_t episode = 0; episode < 10'000; ++episode) {
    const uint64_t seed = EpisodeSeed(1, 0, 0, episode);
    EXPECT_GE(seed, kFirstTrainingSeed);
    EXPECT_LT(seed, uint64_t{1} << 63);
  }
}

TEST(Random, IsUniform) {
  Random random(1);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float x = random.Uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 0.005);
}

}  // namespace
}  // namespace sibyl
