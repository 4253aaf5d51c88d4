#include "actor/local/local_player.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/columns.h"
#include "environments/registry.h"
#include "policy/weights.h"

namespace sibyl::actor {
namespace {

using testing::HasSubstr;

constexpr int kEnvironments = 3;

class LocalPlayerTest : public testing::Test {
 protected:
  LocalPlayerTest() {
    v1::ActorWelcome* actor = welcome_.mutable_actor();
    actor->set_environment("debug/Alignment");
    actor->set_environments(kEnvironments);
    actor->set_groups(1);
    actor->mutable_episodes()->set_end(1000);
    actor->set_codec(v1::PACKING_CODEC_RAW);
    actor->set_text_memory(1000);
    welcome_.set_unroll_length(4);
    welcome_.mutable_policy()->set_kind(v1::POLICY_KIND_MLP);
    environments_ = *MakeEnvironments(*actor);
    player_ = *LocalPlayer::Make(welcome_, &environments_);
  }

  static v1::Weights WeightsOf(const Policy& policy, uint64_t version) {
    v1::Weights weights;
    weights.set_policy_version(version);
    weights.set_safetensors(*EncodePolicy(policy));
    return weights;
  }
  std::shared_ptr<Policy> FreshPolicy() { return *MakePolicy(welcome_.policy(), environments_.front()->spec()); }

  v1::LocalWelcome welcome_;
  EnvironmentGroups environments_;
  std::unique_ptr<LocalPlayer> player_;
};

TEST_F(LocalPlayerTest, NotesWhichWeightsPlayedEachStep) {
  v1::UnrollBatch batch;
  ASSERT_TRUE(player_->TakeWeights(WeightsOf(*FreshPolicy(), 3)).ok());
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(player_->Begin(&batch).ok());
    for (int t = 0; t < 4; ++t) {
      if (round == 1 && t == 2) {
        ASSERT_TRUE(player_->TakeWeights(WeightsOf(*FreshPolicy(), 8)).ok());
      }
      ASSERT_TRUE(player_->Step(&batch).ok());
    }
    EXPECT_EQ(batch.sequence(), static_cast<uint64_t>(round));
    ASSERT_EQ(batch.steps_size(), round == 0 ? 5 : 4);
    for (int i = 0; i < batch.steps_size(); ++i) {
      EXPECT_EQ(batch.steps(i).sequence(), static_cast<uint64_t>(round == 0 ? i : 5 + i));
      EXPECT_EQ(batch.steps(i).observation().rows(), static_cast<uint32_t>(kEnvironments));
    }
    ASSERT_EQ(CountIn<uint64_t>(batch.policy_version()), 4u);
    for (int t = 0; t < 4; ++t) EXPECT_EQ(EntryOf<uint64_t>(batch.policy_version(), t), round == 1 && t >= 2 ? 8u : 3u);
    EXPECT_EQ(CountIn<uint16_t>(batch.action()), 4u * kEnvironments);
    EXPECT_EQ(CountIn<float>(batch.log_prob()), 4u * kEnvironments);
    EXPECT_EQ(CountIn<float>(batch.value()), 4u * kEnvironments);
  }
}

TEST_F(LocalPlayerTest, DrawsTheSameActionsForTheSameSeedAndOthersForAnother) {
  const v1::Weights weights = WeightsOf(*FreshPolicy(), 1);
  const auto actions = [&](uint64_t seed, uint32_t slot, uint64_t first_episode) {
    v1::LocalWelcome welcome = welcome_;
    welcome.mutable_actor()->set_run_seed(seed);
    welcome.mutable_actor()->mutable_lease()->set_slot(slot);
    welcome.mutable_actor()->mutable_episodes()->set_begin(first_episode);
    const auto player = *LocalPlayer::Make(welcome, &environments_);
    v1::UnrollBatch batch;
    EXPECT_TRUE(player->TakeWeights(weights).ok());
    EXPECT_TRUE(player->Begin(&batch).ok());
    for (int t = 0; t < 20; ++t) EXPECT_TRUE(player->Step(&batch).ok());
    return batch.action();
  };
  EXPECT_EQ(actions(1, 0, 0), actions(1, 0, 0));
  EXPECT_NE(actions(1, 0, 0), actions(2, 0, 0));
  EXPECT_NE(actions(1, 0, 0), actions(1, 1, 0));
  EXPECT_NE(actions(1, 0, 0), actions(1, 0, 500));
}

TEST_F(LocalPlayerTest, RefusesWeightsOfAnotherNetworkAndSaysWhichTheyAre) {
  const auto other = *MakePolicy({}, (*MakeEnvironment("minigrid/DoorKey-5x5", {}))->spec());
  const absl::Status status = player_->TakeWeights(WeightsOf(*other, 7));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 7"));
  EXPECT_EQ(player_->policy_version(), 0u);
}

TEST_F(LocalPlayerTest, EndsWhereThePolicyIsNotFinite) {
  const auto policy = FreshPolicy();
  {
    torch::NoGradGuard no_grad;
    for (torch::Tensor parameter : policy->parameters()) parameter.fill_(std::numeric_limits<float>::quiet_NaN());
  }
  ASSERT_TRUE(player_->TakeWeights(WeightsOf(*policy, 1)).ok());
  v1::UnrollBatch batch;
  ASSERT_TRUE(player_->Begin(&batch).ok());
  EXPECT_EQ(player_->Step(&batch).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace sibyl::actor
