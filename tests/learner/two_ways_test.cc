// An actor that asks for its actions and an actor that holds the policy itself must give training the same bytes. Both
// play the same environments with the same seeds and weights; their unrolls are compared field by field.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "actor/local/local_player.h"
#include "actor/player.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/config.h"
#include "common/feedback.h"
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
  bool told = false;  // the policy is told its last action and rewards
  v1::Shaping shaping = v1::SHAPING_NONE;
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

class Requests : public UnrollSink {
 public:
  void RequestBatch(v1::BatchRequest request) override { box.Put(std::move(request)); }
  void RequestTexts(v1::CaptionTextRequest) override { ADD_FAILURE() << "every text was sent"; }
  void Refuse(const absl::Status& status) override { ADD_FAILURE() << status; }
  Box<v1::BatchRequest> box;
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
    actor->set_caption_rule(v1::CAPTION_RULE_EXACT);
    actor->set_max_caption_length(1000);
    actor->set_stagger(true);
    actor->set_count_observations(true);
    experiment_.mutable_actor()->set_environments(c.environments);
    experiment_.mutable_actor()->set_groups(1);
    experiment_.mutable_learner()->set_unroll_length(c.unroll_length);
    experiment_.mutable_policy()->set_last_action(c.told);
    experiment_.mutable_policy()->set_last_rewards(c.told);
    experiment_.mutable_reward()->set_extrinsic_clip(0.5);
    experiment_.mutable_reward()->set_shaping(c.shaping);
    experiment_.mutable_reward()->mutable_novelty()->set_coefficient(0.1);
    FillDefaults(&experiment_);
    *welcome_.mutable_policy() = experiment_.policy();
    *welcome_.mutable_reward() = experiment_.reward();
    welcome_.set_intrinsic_gamma(experiment_.learner().intrinsic_gamma());
    EnvironmentOptions options;
    options.max_episode_steps = c.max_episode_steps;
    spec_ = *FindEnvironmentSpec(c.environment, options);
    feedback_ = std::make_unique<Feedback>(experiment_, spec_);
    policy_spec_ = feedback_->PolicySpec();
    torch::manual_seed(static_cast<int64_t>(c.seed));
    policy_ = FreshPolicy();
    shape_ = {c.unroll_length,
              ObservationBytes(policy_spec_),
              ActionBytes(spec_.action()),
              policy_->state_size(),
              1,
              /*counts_observations=*/true};
  }

  std::shared_ptr<Policy> FreshPolicy() {
    return *MakePolicy(experiment_.policy(), policy_spec_, experiment_.reward());
  }

  // Gives every other caption that is known a score that pays.
  v1::ScoreUpdate Scores(const CaptionTable& captions) {
    google::protobuf::RepeatedPtrField<v1::CaptionState> known;
    captions.Save(&known);
    v1::ScoreUpdate update;
    update.set_sequence(1);
    update.mutable_transform()->set_deviation(1);
    for (int i = 0; i < known.size(); ++i) {
      update.add_id(known[i].id());
      update.add_score(i % 2 == 0 ? 0.75f : 0);
    }
    return update;
  }

  void PlayCentrally(TestBooks& way) {
    PolicyStore policies(FreshPolicy(), FreshPolicy());
    policies.Publish(*policy_, kVersion);
    const v1::ActorWelcome& welcome = welcome_.actor();
    Inference inference(experiment_, spec_, torch::kCPU,
                        SamplingSeed(welcome.run_seed(), kSlot, welcome.episodes().begin()), &policies, way.books(),
                        &Clock::Real(), &way.watch.heartbeats, &way.metrics);
    std::thread thread([&] { EXPECT_EQ(inference.Run(), absl::OkStatus()); });
    auto sink = std::make_shared<Actions>();
    inference.Attach(welcome.lease(), sink);
    const auto environments = *actor::MakeEnvironments(welcome);
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

  // The sequence of the next request.
  uint64_t TakeRequest(Requests& sink) {
    const v1::BatchRequest request = sink.box.Take();
    for (const v1::CaptionReward& caption : request.captions()) told_by_requests_[caption.id()] = caption.reward();
    return request.sequence();
  }

  void PlayLocally(TestBooks& way) {
    UnrollReceiver receiver(experiment_, spec_, way.books(), &Clock::Real(), &way.watch.heartbeats, &way.metrics);
    std::thread thread([&] { EXPECT_EQ(receiver.Run(), absl::OkStatus()); });
    auto sink = std::make_shared<Requests>();
    receiver.Attach(welcome_.actor().lease(), sink);
    const auto environments = *actor::MakeEnvironments(welcome_.actor());
    const auto player = *actor::LocalPlayer::Make(welcome_, &environments);
    v1::Weights weights;
    weights.set_policy_version(kVersion);
    weights.set_safetensors(*EncodePolicy(*policy_));
    EXPECT_EQ(player->TakeWeights(weights), absl::OkStatus());
    v1::BatchRequest request;
    for (int i = 0; i < scores_.id_size(); ++i) {
      v1::CaptionReward* caption = request.add_captions();
      caption->set_id(scores_.id(i));
      caption->set_reward(scores_.score(i));
    }
    player->TakeCaptionRewards(request);
    v1::UnrollBatch batch;
    for (int round = 0; round < kBatches; ++round) {
      EXPECT_EQ(player->Begin(&batch), absl::OkStatus());
      for (int t = 0; t < GetParam().unroll_length; ++t) EXPECT_EQ(player->Step(&batch), absl::OkStatus());
      EXPECT_EQ(TakeRequest(*sink), static_cast<uint64_t>(round));
      EXPECT_TRUE(receiver.Submit(welcome_.actor().lease(), std::exchange(batch, {})));
    }
    EXPECT_EQ(TakeRequest(*sink), static_cast<uint64_t>(kBatches));
    receiver.Close();
    thread.join();
  }

  // What the policy was told, computed anew from the unroll's columns.
  void ExpectLiteralFeedback(const CaptionTable& captions, const Unrolls& unrolls) {
    const size_t bytes = shape_.observation_bytes, told_bytes = feedback_->bytes();
    const int actions = AllChoices(spec_.action());
    int paid_by_caption = 0;
    const auto worth = [&](int32_t caption, uint32_t count) {
      uint64_t id = 0;
      captions.Ids({&caption, 1}, &id);
      double reward = 0;
      for (int i = 0; i < scores_.id_size(); ++i) reward += scores_.id(i) == id ? scores_.score(i) : 0;
      return reward / std::pow(std::max(1u, count), experiment_.reward().count_exponent());
    };
    for (const auto& unroll : unrolls) {
      size_t final = 0;
      for (int t = 0; t < shape_.length; ++t) {
        std::vector<float> expected(actions);
        expected[EntryOf<uint16_t>(unroll->action, t)] = 1;
        expected.push_back(std::clamp(unroll->reward[t], -0.5f, 0.5f));
        const double after = worth(unroll->paid_caption[t], unroll->paid_count[t]);
        const double before = worth(unroll->seen_caption[t], unroll->seen_count[t]);
        paid_by_caption += after != 0;
        expected.push_back(static_cast<float>(GetParam().shaping == v1::SHAPING_DELTA ? before - after : after));
        expected.push_back(1 / std::sqrt(static_cast<float>(unroll->observation_count[t])));
        const auto expect = [&](const std::string& observation, const std::vector<float>& numbers) {
          const std::string told = observation.substr(observation.size() - told_bytes);
          for (size_t i = 0; i < numbers.size(); ++i) EXPECT_NEAR(EntryOf<float>(told, i), numbers[i], 1e-6) << i;
        };
        if (unroll->truncated[t]) expect(unroll->finals[final++].observation, expected);
        if (unroll->first[t + 1]) expected.assign(expected.size(), 0);
        expect(unroll->observation.substr((t + 1) * bytes, bytes), expected);
      }
    }
    EXPECT_GT(paid_by_caption, 0);
  }

  // Counts observations anew, as literally as can be. What terminated episodes showed last is not in an unroll.
  void ExpectLiteralCounts(const Unrolls& unrolls) {
    const size_t bytes = shape_.observation_bytes, own = ObservationBytes(spec_);
    std::map<uint32_t, std::map<std::string, uint32_t>> seen;  // by environment: of the running episode
    size_t repeated = 0;
    for (const auto& unroll : unrolls) {
      auto& occurrences = seen[unroll->environment];
      size_t final = 0;
      for (int t = 0; t < shape_.length; ++t) {
        const auto shown = [&](int step) { return unroll->observation.substr(step * bytes, own); };
        if (occurrences.empty()) occurrences[shown(t)] = 1;
        if (unroll->terminated[t]) {
          occurrences.clear();
          continue;
        }
        const bool truncated = unroll->truncated[t] != 0;
        const std::string led_to = truncated ? unroll->finals[final++].observation.substr(0, own) : shown(t + 1);
        EXPECT_EQ(unroll->observation_count[t], ++occurrences[led_to]);
        repeated += unroll->observation_count[t] > 1;
        if (truncated) occurrences.clear();
      }
    }
    if (absl::StartsWith(GetParam().environment, "minigrid/")) {
      EXPECT_GT(repeated, 0u);
    }
  }

  v1::LocalWelcome welcome_;
  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_, policy_spec_;
  std::unique_ptr<Feedback> feedback_;
  std::shared_ptr<Policy> policy_;
  UnrollShape shape_;
  v1::ScoreUpdate scores_;
  std::map<uint64_t, float> told_by_requests_;
};

TEST_P(TwoWaysTest, GiveTrainingTheSameBytes) {
  TestBooks central(shape_, 1000), local(shape_, 1000);
  if (GetParam().told) {
    TestBooks before(shape_, 1000);  // to learn which captions there are
    PlayCentrally(before);
    scores_ = Scores(before.captions);
    for (TestBooks* way : {&central, &local}) ASSERT_TRUE(way->captions.Apply(scores_, 0).ok());
  }
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
    EXPECT_EQ(a.policy_version, b.policy_version);
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
  if (absl::string_view(GetParam().environment) != "debug/Reach") {
    EXPECT_GT(central.captions.size(), 0u);
  }
  ExpectLiteralCounts(ours);
  if (GetParam().told) ExpectLiteralFeedback(central.captions, ours);
  // A local actor is told what the captions that it has mentioned are worth.
  std::map<uint64_t, float> mentioned;
  for (const auto& unroll : theirs) {
    for (const uint64_t id : local.Ids(unroll->CaptionRows(shape_.length))) {
      for (int i = 0; i < scores_.id_size(); ++i) {
        if (scores_.id(i) == id && scores_.score(i) > 0) mentioned[id] = scores_.score(i);
      }
    }
  }
  EXPECT_EQ(told_by_requests_, mentioned);
  EXPECT_GT(ends, 0u);
  EXPECT_GT(starts, ends);
  // Nothing stays pinned but what unfinished unrolls name.
  central.Unpin(ours);
  local.Unpin(theirs);
  EXPECT_EQ(central.captions.pins(), 0u);
  EXPECT_EQ(local.captions.pins(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Cases, TwoWaysTest,
                         testing::Values(Case{"debug/Alignment", 0, 5, 7, v1::PACKING_CODEC_LZ4, 1, true},
                                         Case{"debug/Alignment", 6, 2, 3, v1::PACKING_CODEC_RAW, 2, true,
                                              v1::SHAPING_DELTA},
                                         Case{"minigrid/DoorKey-5x5", 20, 8, 8, v1::PACKING_CODEC_CHANGES_LZ4, 4, true},
                                         Case{"debug/Choices", 0, 4, 5, v1::PACKING_CODEC_LZ4, 6},
                                         Case{"debug/Reach", 9, 4, 5, v1::PACKING_CODEC_CHANGES_LZ4, 7},
                                         Case{"debug/Alignment", 0, 5, 7, v1::PACKING_CODEC_CHANGES_LZ4, 1},
                                         Case{"debug/Alignment", 6, 1, 3, v1::PACKING_CODEC_RAW, 2},
                                         Case{"debug/Alignment", 10, 4, 16, v1::PACKING_CODEC_LZ4, 3},
                                         Case{"minigrid/DoorKey-5x5", 9, 3, 5, v1::PACKING_CODEC_CHANGES_LZ4, 4},
                                         Case{"minigrid/DoorKey-5x5", 20, 8, 8, v1::PACKING_CODEC_RAW, 5}),
                         [](const auto& info) { return absl::StrCat("Case", info.index); });

}  // namespace
}  // namespace sibyl::learner
