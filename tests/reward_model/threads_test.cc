// What runs on threads: the link to the annotator, and checkpoints.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "common/runtime/files.h"
#include "common/random.h"
#include "reward_model/annotator_link.h"
#include "reward_model/checkpoint.h"
#include "tests/process.h"
#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using ::testing::HasSubstr;

class AnnotatorLinkTest : public ::testing::Test {
 protected:
  AnnotatorLinkTest() {
    annotator_.SetStay(true);
    EXPECT_TRUE(learner_.Connect().ok());
    learner_.SeeAndTell("a door");
  }

  v1::Experiment experiment_ = TestExperiment();
  Shutdown shutdown_;
  Metrics metrics_;
  Coordinator model_{experiment_, std::make_unique<Retrieval>(experiment_.reward_model()), 100, Clock::Real(),
                     metrics_};
  FakeLearner learner_{model_};
  FakeAnnotator annotator_;
};

TEST_F(AnnotatorLinkTest, AsksAndFollows) {
  AnnotatorLink link(model_, annotator_, shutdown_, "here", 1);
  EXPECT_TRUE(Eventually([&] { return annotator_.accepted().size() == 1; }));
  annotator_.Answer("a door", 0.75);
  EXPECT_TRUE(Eventually([&] {
    model_.Tick();
    return learner_.table.Of("a door") == 0.75f;
  }));
}

TEST_F(AnnotatorLinkTest, WaitsForAnAnnotatorThatIsAway) {
  annotator_.SetDown(absl::UnavailableError("nobody there"));
  AnnotatorLink link(model_, annotator_, shutdown_, "here", 1);
  EXPECT_FALSE(shutdown_.WaitFor(absl::Milliseconds(1)));
  annotator_.SetDown(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return annotator_.accepted().size() == 1; }));
  EXPECT_FALSE(shutdown_.requested());
}

TEST_F(AnnotatorLinkTest, GivesUpWhenTryingAgainWouldNotHelp) {
  annotator_.SetDown(absl::FailedPreconditionError("protocol version 2"));
  AnnotatorLink link(model_, annotator_, shutdown_, "here", 1);
  EXPECT_TRUE(shutdown_.WaitFor(absl::Minutes(1)));
  EXPECT_THAT(std::string(shutdown_.reason().message()), HasSubstr("annotator here: protocol version 2"));
}

class CheckpointTest : public AnnotatorLinkTest {
 protected:
  CheckpointTest() : folder_(std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64())) {
    std::filesystem::create_directories(folder_);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(folder_); }

  const std::filesystem::path folder_;
};

TEST_F(CheckpointTest, ComesBackAsItWasWritten) {
  EXPECT_FALSE(ReadCheckpoint(folder_)->has_value());
  annotator_.Answer("a door", 0.75);
  annotator_.SetStay(false);
  EXPECT_FALSE(FollowOnce(model_, annotator_).ok());
  const v1::RewardModelState written = model_.MakeCheckpoint();
  ASSERT_TRUE(WriteCheckpoint(folder_, written).ok());
  const auto read = ReadCheckpoint(folder_);
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_EQ((*read)->SerializeAsString(), written.SerializeAsString());
  EXPECT_EQ((*read)->judge(), "rules:test@1");
}

TEST_F(CheckpointTest, ADamagedOneIsNotReadAsEmpty) {
  ASSERT_TRUE(WriteFileDurably(folder_ / "reward_model.pb", "\x0f\xff no such thing").ok());
  EXPECT_EQ(ReadCheckpoint(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, ComesByItselfAndEndsTheProcessWhenItCannotBeWritten) {
  {
    Checkpointer checkpointer(model_, folder_, absl::Milliseconds(1), shutdown_);
    EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(folder_ / "reward_model.pb"); }));
    EXPECT_TRUE(Eventually([&] { return model_.metrics().checkpoint_timestamp.Value() > 0; }));
    EXPECT_FALSE(shutdown_.requested());
  }
  Checkpointer nowhere(model_, folder_ / "missing", absl::Milliseconds(1), shutdown_);
  EXPECT_TRUE(shutdown_.WaitFor(absl::Minutes(1)));
  EXPECT_FALSE(shutdown_.reason().ok());
}

TEST_F(CheckpointTest, AnHourBetweenCheckpointsDoesNotDelayTheEnd) {
  const absl::Time start = absl::Now();
  { Checkpointer checkpointer(model_, folder_, absl::Hours(1), shutdown_); }
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

}  // namespace
}  // namespace sibyl::reward_model
