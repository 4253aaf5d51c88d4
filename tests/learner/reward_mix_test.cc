#include "learner/training/reward_mix.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sibyl::learner {
namespace {

v1::RewardConfig Config() {
  v1::RewardConfig config;
  config.set_extrinsic_coefficient(0.1);
  config.set_extrinsic_scale(2);
  config.set_extrinsic_clip(10);
  config.set_intrinsic_coefficient(0.4);
  config.set_count_exponent(3);
  config.set_credit(v1::CREDIT_ACTION);
  config.set_shaping(v1::SHAPING_NONE);
  return config;
}

Payment Of(double extrinsic, CaptionWorth before, CaptionWorth after, bool terminated = false) {
  return {extrinsic, before, after, terminated};
}

TEST(RewardMix, ScalesThenClipsTheExtrinsicPart) {
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(3, {}, {})).extrinsic, 0.6);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(7, {}, {})).extrinsic, 1);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(-7, {}, {})).extrinsic, -1);
}

TEST(RewardMix, PaysTheCaptionThatFollowsDividedByItsCount) {
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 1})).intrinsic, 0.2);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 2})).intrinsic, 0.2 / 8);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 1}, true)).intrinsic, 0.2) << "at the end too";
  v1::RewardConfig oni = Config();
  oni.set_credit(v1::CREDIT_ONI);
  EXPECT_DOUBLE_EQ(MixReward(oni, 0.9, Of(0, {1, 3}, {0.5, 1})).intrinsic, 0.4 / 27);
}

TEST(RewardMix, TheCeilingBoundsTheCaptionsRewardBeforeItIsDivided) {
  v1::RewardConfig config = Config();
  config.set_intrinsic_ceiling(0.75);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {2, 2})).intrinsic, 0.4 * 0.75 / 8);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {0.5, 1})).intrinsic, 0.2);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {-2, 1})).intrinsic, -0.8);
}

// However an episode goes, potentials add up, discounted, to nothing but what stood at its beginning (Ng et al. 1999).
TEST(RewardMix, PotentialsAddUpToNothingInAnEpisodeThatTerminates) {
  v1::RewardConfig config = Config();
  config.set_shaping(v1::SHAPING_POTENTIAL);
  const double gamma = 0.9;
  const CaptionWorth captions[] = {{1, 1}, {0.5, 1}, {1, 2}, {0, 0}, {0.25, 1}, {1, 3}};
  double sum = 0;
  for (int t = 0; t < 5; ++t) {
    sum += std::pow(gamma, t) * MixReward(config, gamma, Of(0, captions[t], captions[t + 1], t == 4)).intrinsic;
  }
  EXPECT_NEAR(sum, -0.4, 1e-12);
  EXPECT_NEAR(MixReward(config, gamma, Of(0, {1, 1}, {0.5, 1})).intrinsic, 0.9 * 0.2 - 0.4, 1e-12);
}

TEST(RewardMix, DeltasTelescope) {
  v1::RewardConfig config = Config();
  config.set_shaping(v1::SHAPING_DELTA);
  const CaptionWorth captions[] = {{1, 1}, {0.5, 1}, {1, 2}, {0.25, 1}};
  double sum = 0;
  for (int t = 0; t < 3; ++t) sum += MixReward(config, 0.9, Of(0, captions[t], captions[t + 1])).intrinsic;
  EXPECT_NEAR(sum, 0.4 - 0.1, 1e-12);
}

}  // namespace
}  // namespace sibyl::learner
