#include "learner/training/training_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/checkpoints.h"
#include "common/config.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "common/tensor_spec.h"
#include "tests/common/fake_files.h"
#include "tests/learner/books.h"

namespace sibyl::learner {
namespace {

using testing::HasSubstr;

constexpr int kT = 4, kB = 2;
constexpr uint64_t kBatch = kT * kB;

class TrainingLoopTest : public testing::Test {
 protected:
  TrainingLoopTest() : curves_(absl::StrCat(testing::TempDir(), "/sibyl-loop-", absl::Hex(FreshRandom64()))) {
    at::set_num_threads(1);
    experiment_.mutable_environment()->set_name("debug/Test");
    experiment_.mutable_reward_model()->set_goal("a goal");
    experiment_.set_total_steps(3 * kBatch);
    v1::LearnerConfig& learner = *experiment_.mutable_learner();
    learner.set_unroll_length(kT);
    learner.set_batch_size(kBatch);
    learner.set_training_threads(1);
    learner.set_checkpoint_seconds(60);
    FillDefaults(&experiment_);
    *spec_.add_observation() = MakeTensorSpec("x", v1::DTYPE_FLOAT32, {});
    *spec_.mutable_action() = OneOf({"left", "right"});
    for (FakeFiles* files : {&files_, &checkpoint_files_}) {
      EXPECT_TRUE(files->MakeFolders("/run/checkpoints").ok());
    }
    policies_ = std::make_unique<PolicyStore>(MakeOne(), MakeOne());
    trainer_ = std::make_unique<Trainer>(experiment_.learner(), MakeOne());
    events_ = *EventFile::Create(curves_);
  }
  ~TrainingLoopTest() override { std::filesystem::remove_all(curves_); }

  std::shared_ptr<Policy> MakeOne() {
    v1::PolicyConfig mlp;
    mlp.set_kind(v1::POLICY_KIND_MLP);
    return *MakePolicy(mlp, spec_);
  }
  std::unique_ptr<TrainingLoop> Make(const v1::LearnerState& resumed = {}) {
    checkpoints_ = std::make_unique<CheckpointThread>("/run", 3, &books_.captions, &checkpoint_files_,
                                                      &books_.watch.clock, &books_.watch.heartbeats,
                                                      [](absl::Status status) { ADD_FAILURE() << status; });
    TrainingParts parts;
    parts.experiment = experiment_;
    parts.settings = {experiment_.learner(), experiment_.reward(), spec_, 0, 1, {}, torch::kCPU};
    parts.run_dir = "/run";
    parts.run_id = "a run";
    parts.trainer = trainer_.get();
    parts.policies = policies_.get();
    parts.unrolls = &books_.unrolls;
    parts.captions = &books_.captions;
    parts.episodes = &books_.episodes;
    parts.rewards = nullptr;
    parts.score_queue = nullptr;
    parts.collective = nullptr;
    parts.events = events_.get();
    parts.checkpoints = checkpoints_.get();
    parts.clock = &books_.watch.clock;
    parts.heartbeats = &books_.watch.heartbeats;
    parts.files = &files_;
    parts.metrics = &books_.metrics;
    return std::make_unique<TrainingLoop>(parts, resumed);
  }
  // A batch's finished unrolls, with a caption on every step.
  void Play(float reward = 1) {
    Unrolls unrolls = books_.unrolls.Request(1, kB, [](Unrolls) { FAIL() << "no unroll is free"; });
    for (const auto& unroll : unrolls) {
      const std::vector<uint64_t> ids(2 * kT + 1, 77);
      std::vector<int32_t> rows(ids.size());
      books_.captions.See(ids, 0, rows.data());
      std::copy_n(rows.begin(), kT + 1, unroll->seen_caption.begin());
      std::copy_n(rows.begin(), kT, unroll->paid_caption.begin());
      for (int t = 0; t < kT; ++t) {
        unroll->log_prob[t] = -0.7F;
        unroll->value[t] = 0;
        unroll->reward[t] = reward;
        unroll->paid_count[t] = unroll->seen_count[t] = 1;
      }
    }
    books_.unrolls.Finish(std::move(unrolls));
  }
  absl::StatusOr<uint64_t> StepsSaved() {
    const auto read = ReadNewestCheckpoint("/run", checkpoint_files_);
    if (!read.ok()) return read.status();
    return read->state.steps();
  }
  bool AllReturned() { return books_.unrolls.free() == books_.unrolls.capacity() && books_.captions.pins() == 0; }

  const std::string curves_;
  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_;
  TestBooks books_{{.length = kT, .observation_bytes = sizeof(float), .action_bytes = sizeof(uint16_t)}, 4 * kB};
  FakeFiles files_, checkpoint_files_;  // the loop's, and the checkpoint thread's
  std::unique_ptr<PolicyStore> policies_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<EventFile> events_;
  std::unique_ptr<CheckpointThread> checkpoints_;
};

TEST_F(TrainingLoopTest, TrainsToTheEndAndHandsOverWeightsAndState) {
  const auto loop = Make();
  for (int i = 0; i < 4; ++i) Play();  // one more than is needed
  ASSERT_EQ(loop->Run(), absl::OkStatus());
  EXPECT_EQ(loop->steps(), 3 * kBatch);
  EXPECT_EQ(books_.unrolls.finished(), kB) << "what is not needed stays";
  const PolicyStore::Published published = policies_->Get();
  EXPECT_EQ(published.policy_version, trainer_->policy_version());
  const auto ours = published.policy->parameters(), theirs = trainer_->policy().parameters();
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(torch::equal(ours[i], theirs[i]));

  ASSERT_EQ(checkpoints_->Close(), absl::OkStatus());
  const auto saved = ReadNewestCheckpoint("/run", checkpoint_files_);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->state.steps(), 3 * kBatch);
  EXPECT_EQ(saved->state.policy_version(), trainer_->policy_version());
  EXPECT_EQ(saved->state.run_id(), "a run");
  EXPECT_EQ(saved->state.reward_sums().steps(), 3 * kBatch);
  const auto summary = nlohmann::json::parse(*ReadFile("/run/learner_summary.json", files_));
  EXPECT_EQ(summary["steps"], 3 * kBatch);
  EXPECT_EQ(books_.metrics.Counter("sibyl_learner_steps_total", "").Value(), 3 * kBatch);

  Unrolls rest = books_.Finished(kB);
  books_.Unpin(rest);
  books_.unrolls.Release(std::move(rest));
  EXPECT_TRUE(AllReturned());
}

TEST_F(TrainingLoopTest, AClosedPoolEndsItWithWhatWasTrainedSaved) {
  experiment_.set_total_steps(1000 * kBatch);
  const auto loop = Make();
  Play();
  absl::Status ended = absl::UnknownError("it runs");
  std::thread thread([&] { ended = loop->Run(); });
  EXPECT_TRUE(Eventually([&] { return loop->steps() == kBatch; }));
  books_.unrolls.Close();
  thread.join();
  EXPECT_EQ(ended, absl::OkStatus());
  ASSERT_EQ(checkpoints_->Close(), absl::OkStatus());
  EXPECT_EQ(*StepsSaved(), kBatch);
  EXPECT_TRUE(files_.Exists("/run/learner_summary.json"));
}

TEST_F(TrainingLoopTest, BeatsWhileNoExperienceComes) {
  const auto loop = Make();
  std::thread thread([&] { EXPECT_EQ(loop->Run(), absl::OkStatus()); });
  EXPECT_TRUE(books_.watch.ComesBackAfter(absl::Minutes(20)));
  EXPECT_GE(books_.watch.Silence("training"), 0) << "it is watched";
  books_.unrolls.Close();
  thread.join();
}

TEST_F(TrainingLoopTest, SavesItsStateAsOftenAsIsAsked) {
  experiment_.set_total_steps(1000 * kBatch);
  const auto loop = Make();
  std::thread thread([&] { EXPECT_EQ(loop->Run(), absl::OkStatus()); });
  const auto checkpoint_of = [&](uint64_t steps) {
    Play();
    EXPECT_TRUE(Eventually([&] { return loop->steps() == steps; }));
  };
  checkpoint_of(kBatch);
  books_.watch.clock.Advance(absl::Seconds(61));
  checkpoint_of(2 * kBatch);
  checkpoint_of(3 * kBatch);
  books_.unrolls.Close();
  thread.join();
  ASSERT_EQ(checkpoints_->Close(), absl::OkStatus());
  // None after the first batch, where no minute had passed; the last one at the end.
  EXPECT_EQ(*StepsSaved(), 3 * kBatch);
  EXPECT_FALSE(ReadCheckpoint("/run", CheckpointName(kBatch), checkpoint_files_).ok());
}

TEST_F(TrainingLoopTest, ASummaryThatCannotBeWrittenIsAnError) {
  const auto loop = Make();
  for (int i = 0; i < 3; ++i) Play();
  files_.FailFrom(files_.operations() + 1, absl::ResourceExhaustedError("No space left on device"));
  const absl::Status status = loop->Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("learner_summary.json"));
  EXPECT_EQ(checkpoints_->Close(), absl::OkStatus()) << "the state is on the disk all the same";
  EXPECT_EQ(*StepsSaved(), 3 * kBatch);
}

TEST_F(TrainingLoopTest, WeightsThatAreNotFiniteAreNeitherPublishedNorSaved) {
  const auto loop = Make();
  Play();
  Play(std::numeric_limits<float>::quiet_NaN());
  const absl::Status status = loop->Run();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("nan"));
  const PolicyStore::Published published = policies_->Get();
  EXPECT_EQ(published.policy_version, trainer_->policy_version());
  for (const torch::Tensor& weights : published.policy->parameters()) {
    EXPECT_TRUE(weights.isfinite().all().item<bool>());
  }
  EXPECT_EQ(checkpoints_->Close(), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(StepsSaved().status()));
}

TEST_F(TrainingLoopTest, AResumedRunGoesOnWhereItWas) {
  v1::LearnerState resumed;
  resumed.set_steps(2 * kBatch);
  resumed.set_train_seconds(500);
  resumed.mutable_reward_sums()->set_steps(2 * kBatch);
  const auto loop = Make(resumed);
  Play();
  Play();
  ASSERT_EQ(loop->Run(), absl::OkStatus());
  EXPECT_EQ(loop->steps(), 3 * kBatch);
  EXPECT_EQ(books_.unrolls.finished(), kB) << "one batch was missing";
  ASSERT_EQ(checkpoints_->Close(), absl::OkStatus());
  const auto saved = ReadNewestCheckpoint("/run", checkpoint_files_);
  EXPECT_GE(saved->state.train_seconds(), 500);
  EXPECT_EQ(saved->state.reward_sums().steps(), 3 * kBatch);
}

}  // namespace
}  // namespace sibyl::learner
