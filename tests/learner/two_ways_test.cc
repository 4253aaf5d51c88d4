// An actor that asks for its actions and an actor that holds the policy itself must give training the same bytes. Both
// play the same environments with the same seeds and weights; their unrolls are compared field by field.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "actor/local/local_player.h"
#include "actor/player.h"
#include "common/config.h"
#include "common/random.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "learner/serving/inference.h"
#include "learner/serving/unroll_receiver.h"
#include "policy/weights.h"
#include "tests/learner/books.h"

namespace sibyl::learner {
namespace {

struct Case {
  const char* environment;
  int max_episode_steps, environments, unroll_length;
  v1::PackingCodec codec;
  uint64_t seed;
};

constexpr uint64_t kVersion = 5;
constexpr uint32_t kSlot = 3;
constexpr int kBatches = 6;

// Hands what the learner says over to the thread that plays.
template <typename Message>
class Box {
 public:
  void Put(Message message) {
    MutexLock lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.NotifyAll();
  }
  Message Take() {
    MutexLock lock(mutex_);
    while (messages_.empty()) changed_.Wait(mutex_);
    Message message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Message> messages_ ABSL_GUARDED_BY(mutex_);
};

class Actions : public ActionSink {
 public:
  void SendActions(v1::ActionBatch actions) override { box.Put(std::move(actions)); }
  void RequestTexts(v1::CaptionTextRequest) override { ADD_FAILURE() << "every text was sent"; }
  void Refuse(const absl::Status& status) override { ADD_FAILURE() << status; }
  Box<v1::ActionBatch> box;
};

class Rooms : public UnrollSink {
 public:
  void GiveRoom(uint64_t batches) override { box.Put(batches); }
  void RequestTexts(v1::CaptionTextRequest) override { ADD_FAILURE() << "every text was sent"; }
  void Refuse(const absl::Status& status) override { ADD_FAILURE() << status; }
  Box<uint64_t> box;
};

class TwoWaysTest : public testing::TestWithParam<Case> {
 protected:
  TwoWaysTest() {
    const Case& c = GetParam();
    welcome_.set_unroll_length(c.unroll_length);
    v1::ActorWelcome* actor = welcome_.mutable_actor();
    actor->mutable_lease()->set_slot(kSlot);
    actor->mutable_lease()->set_token(1);
    actor->set_environment(c.environment);
    actor->set_environments(c.environments);
    actor->set_groups(1);
    actor->set_run_seed(c.seed);
    actor->mutable_episodes()->set_begin(100);
    actor->mutable_episodes()->set_end(10'000);
    actor->set_codec(c.codec);
    actor->set_max_episode_steps(c.max_episode_steps);
    actor->set_text_memory(1000);
    actor->set_stagger(true);
    experiment_.mutable_actor()->set_environments(c.environments);
    experiment_.mutable_actor()->set_groups(1);
    experiment_.mutable_learner()->set_unroll_length(c.unroll_length);
    FillDefaults(&experiment_);
    EnvironmentOptions options;
    options.max_episode_steps = c.max_episode_steps;
    spec_ = *FindEnvironmentSpec(c.environment, options);
    torch::manual_seed(static_cast<int64_t>(c.seed));
    policy_ = *MakePolicy({}, spec_);
    shape_ = {c.unroll_length, ObservationBytes(spec_), policy_->state_size(), 1, /*counts_observations=*/true};
  }

  void PlayCentrally(TestBooks& way) {
    PolicyStore policies(*MakePolicy({}, spec_), *MakePolicy({}, spec_));
    policies.Publish(*policy_, kVersion);
    const v1::ActorWelcome& welcome = welcome_.actor();
    Inference inference(experiment_, spec_, torch::kCPU,
                        SamplingSeed(welcome.run_seed(), kSlot, welcome.episodes().begin()), &policies, way.books(),
                        &Clock::Real(), &way.watch.heartbeats, &way.metrics);
    std::thread thread([&] { EXPECT_EQ(inference.Run(), absl::OkStatus()); });
    auto sink = std::make_shared<Actions>();
    inference.Attach(welcome.lease(), sink);
    const auto environments = *actor::Player::MakeEnvironments(welcome);
    actor::Player player(welcome, &environments);
    actor::StepPacker packer(welcome.codec());
    v1::StepBatch step;
    EXPECT_EQ(player.Start(0, &step), absl::OkStatus());
    for (int t = 0; t <= kBatches * GetParam().unroll_length; ++t) {
      packer.Pack(player, &step);
      EXPECT_TRUE(inference.Submit(welcome.lease(), std::exchange(step, {})));
      EXPECT_EQ(player.Step(sink->box.Take(), &step), absl::OkStatus());
    }
    inference.Close();
    thread.join();
  }

  void PlayLocally(TestBooks& way) {
    UnrollReceiver receiver(experiment_, spec_, way.books(), &Clock::Real(), &way.watch.heartbeats, &way.metrics);
    std::thread thread([&] { EXPECT_EQ(receiver.Run(), absl::OkStatus()); });
    auto sink = std::make_shared<Rooms>();
    receiver.Attach(welcome_.actor().lease(), sink);
    const auto environments = *actor::Player::MakeEnvironments(welcome_.actor());
    const auto player = *actor::LocalPlayer::Make(welcome_, &environments);
    v1::Weights weights;
    weights.set_version(kVersion);
    weights.set_safetensors(*EncodePolicy(*policy_));
    EXPECT_EQ(player->TakeWeights(weights), absl::OkStatus());
    v1::UnrollBatch batch;
    for (int round = 0; round < kBatches; ++round) {
      EXPECT_EQ(player->Begin(&batch), absl::OkStatus());
      for (int t = 0; t < GetParam().unroll_length; ++t) EXPECT_EQ(player->Step(&batch), absl::OkStatus());
      EXPECT_EQ(sink->box.Take(), static_cast<uint64_t>(round));
      EXPECT_TRUE(receiver.Submit(welcome_.actor().lease(), std::exchange(batch, {})));
    }
    EXPECT_EQ(sink->box.Take(), static_cast<uint64_t>(kBatches));
    receiver.Close();
    thread.join();
  }

  // Counts observations anew, as literally as can be. What terminated episodes showed last is not in an unroll.
  void ExpectLiteralCounts(const Unrolls& unrolls) {
    const size_t bytes = shape_.observation_bytes;
    std::map<uint32_t, std::map<std::string, uint32_t>> seen;  // by environment: of the running episode
    size_t repeated = 0;
    for (const auto& unroll : unrolls) {
      auto& occurrences = seen[unroll->environment];
      size_t final = 0;
      for (int t = 0; t < shape_.length; ++t) {
        const auto shown = [&](int step) { return unroll->observation.substr(step * bytes, bytes); };
        if (occurrences.empty()) occurrences[shown(t)] = 1;
        if (unroll->terminated[t]) {
          occurrences.clear();
          continue;
        }
        const bool truncated = unroll->truncated[t] != 0;
        const std::string led_to = truncated ? unroll->finals[final++].observation : shown(t + 1);
        EXPECT_EQ(unroll->observation_count[t], ++occurrences[led_to]);
        repeated += unroll->observation_count[t] > 1;
        if (truncated) occurrences.clear();
      }
    }
    if (absl::string_view(GetParam().environment) != "debug/Alignment") EXPECT_GT(repeated, 0u);
  }

  v1::LocalWelcome welcome_;
  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_;
  std::shared_ptr<Policy> policy_;
  UnrollShape shape_;
};

TEST_P(TwoWaysTest, GiveTrainingTheSameBytes) {
  TestBooks central(shape_, 1000), local(shape_, 1000);
  PlayCentrally(central);
  PlayLocally(local);
  const int count = kBatches * GetParam().environments;
  const Unrolls ours = central.Finished(count), theirs = local.Finished(count);
  size_t ends = 0, starts = 0;
  for (int i = 0; i < count; ++i) {
    const Unroll &a = *ours[i], &b = *theirs[i];
    SCOPED_TRACE(absl::StrCat("unroll ", i));
    EXPECT_EQ(a.slot, b.slot);
    EXPECT_EQ(a.environment, b.environment);
    EXPECT_EQ(a.observation, b.observation);
    EXPECT_EQ(a.first, b.first);
    EXPECT_EQ(a.episode, b.episode);
    EXPECT_EQ(central.Ids(a.seen_caption), local.Ids(b.seen_caption));
    EXPECT_EQ(a.seen_count, b.seen_count);
    EXPECT_EQ(central.Ids(a.paid_caption), local.Ids(b.paid_caption));
    EXPECT_EQ(a.paid_count, b.paid_count);
    EXPECT_EQ(a.observation_count, b.observation_count);
    EXPECT_EQ(a.action, b.action);
    EXPECT_EQ(a.log_prob, b.log_prob);
    EXPECT_EQ(a.value, b.value);
    EXPECT_EQ(a.version, b.version);
    EXPECT_EQ(a.reward, b.reward);
    EXPECT_EQ(a.terminated, b.terminated);
    EXPECT_EQ(a.truncated, b.truncated);
    EXPECT_EQ(a.state, b.state);
    ASSERT_EQ(a.finals.size(), b.finals.size());
    for (size_t f = 0; f < a.finals.size(); ++f) {
      EXPECT_EQ(a.finals[f].step, b.finals[f].step);
      EXPECT_EQ(a.finals[f].observation, b.finals[f].observation);
    }
    ends += a.finals.size();
    for (uint8_t first : a.first) starts += first;
  }
  ExpectLiteralCounts(ours);
  EXPECT_GT(ends, 0u);
  EXPECT_GT(starts, ends);
  // Nothing stays pinned but what unfinished unrolls name.
  central.Unpin(ours);
  local.Unpin(theirs);
  EXPECT_EQ(central.captions.pins(), 0u);
  EXPECT_EQ(local.captions.pins(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Cases, TwoWaysTest,
                         testing::Values(Case{"debug/Alignment", 0, 5, 7, v1::PACKING_CODEC_CHANGES_LZ4, 1},
                                         Case{"debug/Alignment", 6, 1, 3, v1::PACKING_CODEC_RAW, 2},
                                         Case{"debug/Alignment", 10, 4, 16, v1::PACKING_CODEC_LZ4, 3},
                                         Case{"minigrid/DoorKey-5x5", 9, 3, 5, v1::PACKING_CODEC_CHANGES_LZ4, 4},
                                         Case{"minigrid/DoorKey-5x5", 20, 8, 8, v1::PACKING_CODEC_RAW, 5}),
                         [](const auto& info) { return absl::StrCat("Case", info.index); });

}  // namespace
}  // namespace sibyl::learner
