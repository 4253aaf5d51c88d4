#include "learner/serving/inference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/caption.h"
#include "common/columns.h"
#include "common/config.h"
#include "common/step_flags.h"
#include "common/tensor_spec.h"
#include "tests/learner/books.h"

namespace sibyl::learner {
namespace {

using testing::HasSubstr;

constexpr int kT = 3, kE = 2;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Sink : public RecordingSink<ActionSink> {
 public:
  // `gate`: where the first answer hangs; nullptr: nowhere.
  explicit Sink(Gate* gate = nullptr) : gate_(gate) {}
  void SendActions(v1::ActionBatch actions) override {
    if (gate_ != nullptr) gate_->Wait();
    MutexLock lock(mutex_);
    EXPECT_EQ(actions.sequence(), answers_);
    EXPECT_EQ(actions.action().size(), kE * sizeof(uint16_t));
    ++answers_;
  }
  uint64_t answers() {
    MutexLock lock(mutex_);
    return answers_;
  }

 private:
  Gate* const gate_;
  uint64_t answers_ ABSL_GUARDED_BY(mutex_) = 0;
};

class InferenceTest : public testing::Test {
 protected:
  InferenceTest() {
    experiment_.mutable_actor()->set_environments(kE);
    experiment_.mutable_actor()->set_groups(1);
    experiment_.mutable_learner()->set_unroll_length(kT);
    experiment_.mutable_learner()->set_batch_size(kT);
    FillDefaults(&experiment_);
    *spec_.add_observation() = MakeTensorSpec("x", v1::DTYPE_FLOAT32, {});
    *spec_.mutable_action() = OneOf({"left", "right"});
    v1::PolicyConfig mlp;
    mlp.set_kind(v1::POLICY_KIND_MLP);
    policies_ = std::make_unique<PolicyStore>(*MakePolicy(mlp, spec_), *MakePolicy(mlp, spec_));
    inference_ = std::make_unique<Inference>(experiment_, spec_, torch::kCPU, /*seed=*/1, policies_.get(),
                                             books_.books(), &Clock::Real(), &books_.watch.heartbeats, &books_.metrics);
    thread_ = std::thread([this] { EXPECT_EQ(inference_->Run(), absl::OkStatus()); });
  }
  ~InferenceTest() override {
    inference_->Close();
    books_.unrolls.Close();
    thread_.join();
  }

  struct Actor {
    v1::SlotLease lease;
    std::shared_ptr<Sink> sink;
    ObservationPacker packer{v1::PACKING_CODEC_CHANGES_LZ4};
    uint64_t steps = 0;
  };
  Actor Attach(uint32_t slot, std::shared_ptr<Sink> sink = std::make_shared<Sink>()) {
    Actor actor;
    actor.sink = std::move(sink);
    actor.lease.set_slot(slot);
    actor.lease.set_token(++last_token_);
    inference_->Attach(actor.lease, actor.sink);
    return actor;
  }
  // The actor's next step, in which environment e shows 10 * e + the number of steps.
  v1::StepBatch Next(Actor& actor) {
    v1::StepBatch step;
    step.set_sequence(actor.steps);
    std::string observations;
    for (int e = 0; e < kE; ++e) {
      const bool first = actor.steps == 0;
      AppendTo<float>(step.mutable_reward(), first ? 0 : 1);
      step.mutable_flags()->push_back(first ? kStepFirst : 0);
      AppendTo<uint64_t>(step.mutable_caption_id(), first ? 0 : CaptionId("go"));
      AppendTo<uint32_t>(step.mutable_caption_count(), first ? 0 : actor.steps);
      if (first) {
        AppendTo<uint64_t>(step.mutable_first_caption_id(), 0);
        AppendTo<uint64_t>(step.mutable_first_episode(), 0);
      }
      AppendTo<float>(&observations, static_cast<float>(10 * e + actor.steps));
    }
    actor.packer.Pack(observations, kE, step.mutable_observation());
    ++actor.steps;
    return step;
  }
  void Submit(Actor& actor, v1::StepBatch step) { EXPECT_TRUE(inference_->Submit(actor.lease, std::move(step))); }
  // Plays until the actor has been answered `answers` times.
  void Play(Actor& actor, uint64_t answers) {
    while (actor.steps < answers) {
      Submit(actor, Next(actor));
      ASSERT_TRUE(Eventually([&] { return actor.sink->answers() == actor.steps; }));
    }
  }
  Unrolls Pop(int count) {
    Unrolls unrolls = books_.Finished(count);
    books_.Unpin(unrolls);
    return unrolls;
  }

  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_;
  TestBooks books_{{.length = kT, .observation_bytes = sizeof(float), .action_bytes = sizeof(uint16_t)}, 2 * kE};
  std::unique_ptr<PolicyStore> policies_;
  std::unique_ptr<Inference> inference_;
  std::thread thread_;
  uint64_t last_token_ = 0;
};

TEST_F(InferenceTest, AnUnrollHoldsWhatTheActorShowedAndWhatWasDecided) {
  Actor actor = Attach(7);
  Play(actor, kT + 1);
  const Unrolls unrolls = Pop(kE);
  for (int e = 0; e < kE; ++e) {
    EXPECT_EQ(unrolls[e]->slot, 7u);
    EXPECT_EQ(unrolls[e]->environment, static_cast<uint32_t>(e));
    for (int t = 0; t <= kT; ++t) EXPECT_EQ(EntryOf<float>(unrolls[e]->observation, t), 10 * e + t);
    for (int t = 0; t < kT; ++t) {
      EXPECT_EQ(unrolls[e]->reward[t], 1);
      EXPECT_LT(EntryOf<uint16_t>(unrolls[e]->action, t), 2);
      EXPECT_LT(unrolls[e]->log_prob[t], 0);
    }
  }
  EXPECT_EQ(books_.steps.received(), static_cast<uint64_t>(kT * kE));
}

TEST_F(InferenceTest, AGroupWhoseUnrollsEndWaitsUntilTrainingReleasesSome) {
  Actor actor = Attach(0);
  Play(actor, 2 * kT);
  Submit(actor, Next(actor));  // ends the second pair of unrolls: there is no third
  ASSERT_TRUE(Eventually([&] { return books_.unrolls.finished() == 2 * kE; }));
  EXPECT_EQ(actor.sink->answers(), static_cast<uint64_t>(2 * kT));
  books_.unrolls.Release(Pop(kE));
  ASSERT_TRUE(Eventually([&] { return actor.sink->answers() == 2 * kT + 1; }));
}

TEST_F(InferenceTest, RefusesAnActorWhoseNumbersAreNotFiniteAndServesTheOthers) {
  Actor good = Attach(0);
  Play(good, 1);
  const auto refuse = [&](const std::string& reason, auto change) {
    Actor bad = Attach(1);
    Play(bad, 1);
    v1::StepBatch step = Next(bad);
    change(step);
    Submit(bad, std::move(step));
    ASSERT_TRUE(Eventually([&] { return !bad.sink->refused().ok(); })) << reason;
    EXPECT_EQ(bad.sink->refused().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(bad.sink->refused().message()), HasSubstr(reason));
    ASSERT_TRUE(Eventually([&] { return books_.unrolls.free() == kE; })) << reason;
  };
  const auto number = [](float value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); };
  refuse("not finite: reward 1 is nan",
         [&](v1::StepBatch& step) { step.mutable_reward()->replace(4, 4, number(kNan)); });
  refuse("reward 0 is -1e+10", [&](v1::StepBatch& step) { step.mutable_reward()->replace(0, 4, number(-1e10)); });
  refuse("element 0 of the observation's array `x` is nan", [&](v1::StepBatch& step) {
    ObservationPacker(v1::PACKING_CODEC_RAW).Pack(number(1) + number(kNan), kE, step.mutable_observation());
  });
  refuse("the return of the episode that ended in row 1 is nan", [&](v1::StepBatch& step) {
    (*step.mutable_flags())[1] = kStepTerminated | kStepFirst;
    AppendTo<uint64_t>(step.mutable_first_caption_id(), 0);
    AppendTo<uint64_t>(step.mutable_first_episode(), 1);
    ObservationPacker(v1::PACKING_CODEC_RAW).Pack(number(1), 1, step.mutable_final_observation());
    step.add_episodes()->set_row(1);
    step.mutable_episodes(0)->set_episode_return(kNan);
  });
  EXPECT_EQ(good.sink->refused(), absl::OkStatus());
  Play(good, kT);
  EXPECT_EQ(books_.captions.pins(),
            2u * (kT - 1) * kE);  // the good one's alone: named by paid_caption and seen_caption
}

TEST_F(InferenceTest, ALostActorGivesItsUnrollsBackAndItsEpisodesAreAbandoned) {
  Actor actor = Attach(0), other = Attach(1);
  Play(actor, 2);
  Play(other, 1);
  EXPECT_EQ(books_.unrolls.free(), 0);
  inference_->Detach(actor.lease);
  ASSERT_TRUE(Eventually([&] { return books_.unrolls.free() == kE; }));
  EXPECT_EQ(books_.episodes.Get().abandoned, static_cast<uint64_t>(kE));
  EXPECT_EQ(books_.captions.pins(), 0u);
  Play(other, kT);
}

TEST_F(InferenceTest, BeatsAsLongAsItAnswers) {
  Gate gate;
  Actor actor = Attach(0, std::make_shared<Sink>(&gate));
  Submit(actor, Next(actor));
  ExpectSilenceWhileIn(gate, books_.watch, "inference");
}

TEST_F(InferenceTest, AsksForTextsThatItLacks) {
  Actor actor = Attach(0);
  Play(actor, 2);
  EXPECT_THAT(actor.sink->wanted(), testing::ElementsAre(CaptionId("go")));
}

}  // namespace
}  // namespace sibyl::learner
