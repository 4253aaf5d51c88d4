// At or below which score a caption is paid nothing, and how rarely that changes.

#include "reward_model/scoring/threshold.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/random.h"

namespace sibyl::reward_model {
namespace {

v1::RewardModelConfig Config(v1::ThresholdKind kind, double threshold) {
  v1::Experiment experiment;
  experiment.mutable_reward_model()->set_threshold_kind(kind);
  experiment.mutable_reward_model()->set_threshold(threshold);
  FillDefaults(&experiment);
  return experiment.reward_model();
}

Tally Answered(double p) { return {1, p, 0}; }

double LogOdds(double p) { return std::log(p / (1 - p)); }

TEST(Threshold, AbsoluteIsKnownAtOnceAndNeverChanges) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_ABSOLUTE, 0.5));
  EXPECT_FLOAT_EQ(threshold.value(), 0.5);
  threshold.Observe(1, Answered(0.9));
  EXPECT_FLOAT_EQ(threshold.value(), 0.5);
  EXPECT_TRUE(threshold.neutral().empty());
}

TEST(Threshold, NeutralPaysNothingUntilEveryNeutralCaptionIsLabelledAndThenStands) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_NEUTRAL, 0.2));
  ASSERT_EQ(threshold.neutral().size(), 3u);
  EXPECT_EQ(threshold.neutral()[1], CaptionId("Nothing happens."));
  threshold.Observe(threshold.neutral()[0], Answered(0.2));
  threshold.Observe(threshold.neutral()[1], {0, 0, 1});  // abstained
  threshold.Observe(77, Answered(0.99));
  EXPECT_EQ(threshold.value(), 1) << "no probability is above";
  threshold.Observe(threshold.neutral()[2], Answered(0.3));
  const float value = threshold.value();
  EXPECT_NEAR(LogOdds(value), (LogOdds(0.2) + LogOdds(0.3)) / 2 + 0.2, 1e-5);
  Random random(1);
  for (uint64_t id = 100; id < 1100; ++id) threshold.Observe(id, Answered(random.Uniform()));
  EXPECT_EQ(threshold.value(), value) << "captions that come change no reward";
  threshold.Restart();
  EXPECT_EQ(threshold.value(), 1) << "another judge";
}

TEST(Threshold, AJudgeThatIsSureOfItsLabelsPaysWhatItCallsGood) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_NEUTRAL, 0.2));
  for (const uint64_t id : threshold.neutral()) threshold.Observe(id, Answered(0));
  EXPECT_LT(threshold.value(), 1e-5);
  EXPECT_GT(threshold.value(), 0) << "a label of 0 is paid nothing";
}

TEST(Threshold, AJudgeThatAnswersForNoNeutralCaptionIsTakenAtItsWord) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_NEUTRAL, 0.2));
  for (const uint64_t id : threshold.neutral()) threshold.Observe(id, {0, 0, 1});
  EXPECT_FLOAT_EQ(threshold.value(), 0.5);
}

TEST(Threshold, AQuantilePaysItsShareOfTheCaptions) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_QUANTILE, 0.75));
  for (uint64_t id = 1; id <= 7; ++id) threshold.Observe(id, Answered(0.1 * static_cast<double>(id)));
  EXPECT_EQ(threshold.value(), 1) << "too few";
  threshold.Observe(8, Answered(0.8));
  EXPECT_FLOAT_EQ(threshold.value(), 0.6) << "two of eight are above";
}

TEST(Threshold, AGapLiesBetweenTheTwoKinds) {
  Threshold threshold(Config(v1::THRESHOLD_KIND_GAP, 0));
  // All below a half, as a small model's are; the outermost captions make no gap.
  const double scores[] = {0.001, 0.05, 0.06, 0.07, 0.2, 0.22, 0.24, 0.45};
  for (uint64_t id = 0; id < 8; ++id) threshold.Observe(id + 1, Answered(scores[id]));
  EXPECT_NEAR(LogOdds(threshold.value()), (LogOdds(0.07) + LogOdds(0.2)) / 2, 1e-5);
}

TEST(Threshold, CaptionsThatComeChangeItOnceInADoublingOfTheirNumber) {
  for (const v1::ThresholdKind kind : {v1::THRESHOLD_KIND_QUANTILE, v1::THRESHOLD_KIND_GAP}) {
    Threshold threshold(Config(kind, 0.5));
    Random random(2);
    std::set<float> values;
    for (uint64_t id = 1; id <= 1000; ++id) {
      threshold.Observe(id, Answered(random.Uniform()));
      values.insert(threshold.value());
    }
    EXPECT_LE(values.size(), 1u + 7u) << "unknown, and at 8, 16, ... 512";
  }
}

}  // namespace
}  // namespace sibyl::reward_model
