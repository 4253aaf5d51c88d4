#include "learner/training/batch.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/action_spec.h"
#include "common/config.h"
#include "common/tensor_spec.h"
#include "policy/value_heads.h"

namespace sibyl::learner {
namespace {

constexpr int kT = 2;

class BatchTest : public testing::Test {
 protected:
  BatchTest() {
    *spec_.add_observation() = MakeTensorSpec("x", v1::DTYPE_FLOAT32, {});
    *spec_.mutable_action() = OneOf({"a", "b"});
    experiment_.mutable_learner()->set_unroll_length(kT);
    experiment_.mutable_reward()->set_intrinsic_coefficient(0.5);
    experiment_.mutable_reward()->set_count_exponent(1);
    experiment_.mutable_reward()->mutable_novelty()->set_coefficient(0.25);
    FillDefaults(&experiment_);
    v1::ScoreUpdate scores;
    scores.set_sequence(1);
    scores.mutable_transform()->set_deviation(1);
    scores.add_id(7);
    scores.add_score(0.8f);
    EXPECT_TRUE(captions_.Apply(scores, 0).ok());
  }

  // One unroll: the first step is paid by the environment and as a new observation, the second by its caption too.
  Batch Make(v1::ValueHeads heads) {
    experiment_.mutable_policy()->set_value_heads(heads);
    const int V = ValueCount(experiment_.policy(), experiment_.reward());
    UnrollPool pool({.length = kT,
                     .observation_bytes = sizeof(float),
                     .action_bytes = sizeof(uint16_t),
                     .value_heads = V,
                     .counts_observations = true},
                    1, &Clock::Real());
    Unrolls unrolls = pool.Request(0, 1, nullptr);
    EXPECT_EQ(unrolls.size(), 1u);
    Unroll& unroll = *unrolls[0];
    unroll.reward = {3, -1};
    unroll.observation_count = {1, 4};
    const uint64_t id = 7;
    captions_.See({&id, 1}, 0, &unroll.paid_caption[1]);
    unroll.paid_count[1] = 2;
    BatchSettings settings{experiment_.learner(),
                           experiment_.reward(),
                           spec_,
                           0,
                           V,
                           ChannelHeads(experiment_.policy(), experiment_.reward())};
    return MakeBatch(settings, unrolls, captions_, CoefficientsAt(experiment_.reward(), 0), 0, 0);
  }

  v1::EnvironmentSpec spec_;
  v1::Experiment experiment_;
  CaptionTable captions_{1000};
};

void ExpectRewards(const Batch& batch, const std::vector<std::vector<double>>& expected) {
  ASSERT_EQ(batch.training.reward.sizes(), (std::vector<int64_t>{kT, 1, static_cast<int64_t>(expected[0].size())}));
  for (int t = 0; t < kT; ++t) {
    for (size_t head = 0; head < expected[t].size(); ++head) {
      EXPECT_NEAR(batch.training.reward[t][0][static_cast<int64_t>(head)].item<double>(), expected[t][head], 1e-6);
    }
  }
}

// 0.5 * 0.8 / 2.
constexpr double kCaption = 0.2;

TEST_F(BatchTest, OneValueIsOfTheTotal) {
  ExpectRewards(Make(v1::VALUE_HEADS_TOTAL), {{3 + 0.25}, {-1 + kCaption + 0.125}});
}

TEST_F(BatchTest, SeparateValuesAreOfExtrinsicAndIntrinsicReward) {
  ExpectRewards(Make(v1::VALUE_HEADS_SEPARATE), {{3, 0.25}, {-1, kCaption + 0.125}});
}

TEST_F(BatchTest, EachChannelHasAValueOfItsOwn) {
  ExpectRewards(Make(v1::VALUE_HEADS_EACH), {{3, 0, 0.25}, {-1, kCaption, 0.125}});
}

TEST_F(BatchTest, AChannelThatNeverPaysHasNoValue) {
  experiment_.mutable_reward()->set_intrinsic_coefficient(0);
  experiment_.mutable_reward()->set_final_intrinsic_coefficient(0);
  ExpectRewards(Make(v1::VALUE_HEADS_EACH), {{3, 0.25}, {-1, 0.125}});
}

}  // namespace
}  // namespace sibyl::learner
