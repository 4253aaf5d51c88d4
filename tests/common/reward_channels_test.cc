#include "common/reward_channels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace sibyl {
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

MixedReward MixReward(const v1::RewardConfig& config, double gamma, const Payment& payment) {
  return sibyl::MixReward(config, CoefficientsAt(config, 0), gamma, payment);
}

Payment Of(double extrinsic, CaptionWorth before, CaptionWorth after, bool terminated = false) {
  return {extrinsic, before, after, terminated, 0};
}

TEST(RewardChannels, ScalesThenClipsTheExtrinsicPart) {
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(3, {}, {})).extrinsic, 0.6);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(7, {}, {})).extrinsic, 1);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(-7, {}, {})).extrinsic, -1);
}

TEST(RewardChannels, PaysTheCaptionThatFollowsDividedByItsCount) {
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 1})).intrinsic, 0.2);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 2})).intrinsic, 0.2 / 8);
  EXPECT_DOUBLE_EQ(MixReward(Config(), 0.9, Of(0, {1, 1}, {0.5, 1}, true)).intrinsic, 0.2) << "at the end too";
  v1::RewardConfig oni = Config();
  oni.set_credit(v1::CREDIT_ONI);
  EXPECT_DOUBLE_EQ(MixReward(oni, 0.9, Of(0, {1, 3}, {0.5, 1})).intrinsic, 0.4 / 27);
}

TEST(RewardChannels, TheCeilingBoundsTheCaptionsRewardBeforeItIsDivided) {
  v1::RewardConfig config = Config();
  config.set_intrinsic_ceiling(0.75);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {2, 2})).intrinsic, 0.4 * 0.75 / 8);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {0.5, 1})).intrinsic, 0.2);
  EXPECT_DOUBLE_EQ(MixReward(config, 0.9, Of(0, {}, {-2, 1})).intrinsic, -0.8);
}

// However an episode goes, potentials add up, discounted, to nothing but what stood at its beginning (Ng et al. 1999).
TEST(RewardChannels, PotentialsAddUpToNothingInAnEpisodeThatTerminates) {
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

TEST(RewardChannels, DeltasTelescope) {
  v1::RewardConfig config = Config();
  config.set_shaping(v1::SHAPING_DELTA);
  const CaptionWorth captions[] = {{1, 1}, {0.5, 1}, {1, 2}, {0.25, 1}};
  double sum = 0;
  for (int t = 0; t < 3; ++t) sum += MixReward(config, 0.9, Of(0, captions[t], captions[t + 1])).intrinsic;
  EXPECT_NEAR(sum, 0.4 - 0.1, 1e-12);
}

TEST(RewardChannels, AnObservationPaysLessEachTimeThatItOccursInItsEpisode) {
  v1::RewardConfig config = Config();
  config.mutable_novelty()->set_coefficient(0.3);
  config.mutable_novelty()->set_count_exponent(0.5);
  Payment payment = Of(1, {}, {0.5, 1});
  for (uint32_t count : {1u, 2u, 4u, 100u}) {
    payment.observation_count = count;
    const MixedReward mixed = MixReward(config, 0.9, payment);
    EXPECT_DOUBLE_EQ(mixed.channels[kNoveltyChannel], 0.3 / std::sqrt(count));
    EXPECT_DOUBLE_EQ(mixed.channels[kCaptionChannel], 0.2);
    EXPECT_DOUBLE_EQ(mixed.intrinsic, 0.2 + 0.3 / std::sqrt(count));
  }
}

TEST(RewardChannels, ObservationsThatAreNotCountedPayNothing) {
  v1::RewardConfig config = Config();
  EXPECT_FALSE(CountsObservations(config));
  EXPECT_EQ(MixReward(config, 0.9, Of(1, {}, {0.5, 1})).channels[kNoveltyChannel], 0);
  config.mutable_novelty()->set_final_coefficient(0.1);
  EXPECT_TRUE(CountsObservations(config));
}

TEST(RewardChannels, EachCoefficientChangesInAStraightLine) {
  v1::RewardConfig config = Config();
  config.set_final_intrinsic_coefficient(0);
  config.mutable_novelty()->set_coefficient(1);
  config.mutable_novelty()->set_final_coefficient(3);
  for (double progress : {0.0, 0.25, 1.0, 1.5}) {
    const double done = std::min(progress, 1.0);
    const ChannelCoefficients coefficients = CoefficientsAt(config, progress);
    EXPECT_DOUBLE_EQ(coefficients[kCaptionChannel], 0.4 * (1 - done));
    EXPECT_DOUBLE_EQ(coefficients[kNoveltyChannel], 1 + 2 * done);
  }
  config.set_final_intrinsic_coefficient(0.4);
  EXPECT_EQ(CoefficientsAt(config, 0.3)[kCaptionChannel], 0.4) << "a coefficient that stays is exactly what it was";
}

TEST(RewardChannels, EachHasANameOfItsOwn) {
  EXPECT_STREQ(ChannelName(kCaptionChannel), "caption");
  EXPECT_STREQ(ChannelName(kNoveltyChannel), "novelty");
}

}  // namespace
}  // namespace sibyl
