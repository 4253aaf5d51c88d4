// What runs on threads: the link to the annotator, and checkpoints; and checkpoints on a disk that fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "common/random.h"
#include "common/runtime/ending.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "reward_model/annotator_link.h"
#include "reward_model/checkpoint.h"
#include "tests/common/fake_files.h"
#include "tests/heartbeat_watch.h"
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
  std::function<void(absl::Status)> Fail() {
    return [this](absl::Status reason) { ending_.Fail(std::move(reason)); };
  }

  v1::Experiment experiment_ = TestExperiment();
  Ending ending_;
  Metrics metrics_;
  HeartbeatWatch watch_;
  Coordinator model_{experiment_, std::make_unique<Retrieval>(experiment_.reward_model()), 100, Clock::Real(),
                     metrics_};
  FakeLearner learner_{model_};
  FakeAnnotator annotator_;
};

TEST_F(AnnotatorLinkTest, AsksAndFollows) {
  AnnotatorLink link(model_, annotator_, "here", 1, Clock::Real(), watch_.heartbeats, Fail());
  EXPECT_TRUE(Eventually([&] { return annotator_.accepted().size() == 1; }));
  annotator_.Answer("a door", 0.75);
  EXPECT_TRUE(Eventually([&] {
    model_.Tick();
    return learner_.table.Of("a door") == 0.75f;
  }));
}

TEST_F(AnnotatorLinkTest, WaitsForAnAnnotatorThatIsAway) {
  annotator_.SetDown(absl::UnavailableError("nobody there"));
  AnnotatorLink link(model_, annotator_, "here", 1, Clock::Real(), watch_.heartbeats, Fail());
  EXPECT_FALSE(ending_.requested());
  annotator_.SetDown(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return annotator_.accepted().size() == 1; }));
  EXPECT_FALSE(ending_.requested());
}

TEST_F(AnnotatorLinkTest, GivesUpWhenTryingAgainWouldNotHelp) {
  annotator_.SetDown(absl::FailedPreconditionError("protocol version 2"));
  AnnotatorLink link(model_, annotator_, "here", 1, Clock::Real(), watch_.heartbeats, Fail());
  EXPECT_TRUE(Eventually([&] { return ending_.requested(); }));
  EXPECT_THAT(std::string(ending_.failure().message()), HasSubstr("annotator here: protocol version 2"));
}

TEST_F(AnnotatorLinkTest, AThreadThatFollowsIsWatchedAndMayWaitForLabels) {
  Gate describing;
  annotator_.SetGates(&describing, nullptr);
  AnnotatorLink link(model_, annotator_, "here", 1, Clock::Real(), watch_.heartbeats, Fail());
  ExpectSilenceWhileIn(describing, watch_, "labels");
  EXPECT_TRUE(Eventually([&] { return annotator_.accepted().size() == 1; }));
  EXPECT_TRUE(watch_.ComesBackAfter(absl::Hours(1)));
}

TEST_F(AnnotatorLinkTest, AThreadThatAsksIsWatched) {
  Gate asking;
  annotator_.SetGates(nullptr, &asking);
  AnnotatorLink link(model_, annotator_, "here", 1, Clock::Real(), watch_.heartbeats, Fail());
  ExpectSilenceWhileIn(asking, watch_, "asker");
}

class CheckpointTest : public AnnotatorLinkTest {
 protected:
  CheckpointTest() {
    EXPECT_TRUE(files_.MakeFolders("/run").ok());
    EXPECT_TRUE(files_.SyncFolder("/").ok());
    annotator_.SetStay(false);
  }
  std::unique_ptr<Checkpointer> Make(FileSystem& files, const std::string& folder,
                                     absl::Duration period = absl::Hours(1)) {
    return std::make_unique<Checkpointer>(model_, folder, period, Clock::Real(), files, watch_.heartbeats, Fail());
  }
  void Follow() { EXPECT_FALSE(FollowOnce(model_, annotator_).ok()); }
  // What a process that starts now would have; nullopt: nothing.
  absl::StatusOr<std::optional<v1::RewardModelState>> Read() {
    Metrics metrics;
    Coordinator again(experiment_, std::make_unique<Retrieval>(experiment_.reward_model()), 101, Clock::Real(),
                      metrics);
    SIBYL_ASSIGN_OR_RETURN(const auto head, ReadCheckpoint("/run", files_, [&](const v1::RewardModelPiece& piece) {
                             again.Restore(piece);
                           }));
    if (!head.has_value()) return std::nullopt;
    SIBYL_RETURN_IF_ERROR(again.FinishRestore(*head));
    return Checkpoint(again);
  }
  // Puts a file that the program of version 1 wrote into the run's folder.
  void PutVersion1(const std::string& name) {
    const auto bytes = ReadFile(absl::StrCat(SIBYL_SOURCE_DIR, "/tests/reward_model/testdata/", name));
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    ASSERT_TRUE(WriteFileDurably("/run/reward_model.pb", *bytes, files_).ok());
  }
  uint64_t AnswersRead() {
    const auto state = Read();
    if (!state.ok() || !state->has_value()) return 0;
    uint64_t answers = 0;
    for (const v1::RewardCaption& caption : (*state)->captions()) answers += caption.answers();
    return answers;
  }

  FakeFiles files_;
};

TEST_F(CheckpointTest, ComesBackAsItWasWritten) {
  EXPECT_FALSE(Read()->has_value());
  annotator_.Answer("a door", 0.75);
  Follow();
  ASSERT_TRUE(Make(files_, "/run")->Close().ok());
  const auto read = Read();
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_EQ((*read)->SerializeAsString(), Checkpoint(model_).SerializeAsString());
  EXPECT_EQ((*read)->judge(), "rules:test@1");
}

TEST_F(CheckpointTest, LaterOnesAppendAndSurviveLostPower) {
  const auto checkpointer = Make(files_, "/run");
  ASSERT_TRUE(checkpointer->Write().ok());
  const double first = model_.metrics().checkpoint_bytes.Value();
  annotator_.Answer("a door", 0.75);
  Follow();
  ASSERT_TRUE(checkpointer->Write().ok());
  const double second = model_.metrics().checkpoint_bytes.Value();
  EXPECT_GT(second, first);
  ASSERT_TRUE(checkpointer->Write().ok());
  EXPECT_EQ(model_.metrics().checkpoint_bytes.Value(), second) << "nothing has changed";
  files_.LosePower(/*names_kept=*/false);
  EXPECT_EQ(AnswersRead(), 1u);
}

TEST_F(CheckpointTest, OneThatWasCutOffLeavesTheOneBefore) {
  const auto checkpointer = Make(files_, "/run");
  ASSERT_TRUE(checkpointer->Write().ok());
  const std::string before = *ReadFile("/run/reward_model.records", files_);
  annotator_.Answer("a door", 0.75);
  Follow();
  ASSERT_TRUE(checkpointer->Write().ok());
  const std::string after = *ReadFile("/run/reward_model.records", files_);
  EXPECT_EQ(AnswersRead(), 1u);
  for (size_t length = before.size(); length < after.size(); ++length) {
    files_.Damage("/run/reward_model.records", after.substr(0, length));
    EXPECT_EQ(AnswersRead(), 0u) << length;
    ASSERT_TRUE((*Read()).has_value()) << length;
    // A disk that lost a page instead.
    std::string damaged = after;
    damaged[length] ^= 1;
    files_.Damage("/run/reward_model.records", damaged);
    EXPECT_EQ(AnswersRead(), 0u) << length;
    ASSERT_TRUE((*Read()).has_value()) << length;
  }
}

TEST_F(CheckpointTest, ADamagedOneIsNotReadAsEmpty) {
  for (const char* bytes : {"", "\x0f\xff no such thing", "SIBYLREC"}) {
    ASSERT_TRUE(WriteFileDurably("/run/reward_model.records", bytes, files_).ok());
    EXPECT_EQ(Read().status().code(), absl::StatusCode::kDataLoss) << bytes;
  }
}

// testdata/*_version_1.pb were written by the last program of that format (commit 5a274ca): its RewardModel with a
// learner and an annotator in memory, and its Checkpointer.
TEST_F(CheckpointTest, TakesOverAFileThatTheProgramOfVersion1Wrote) {
  experiment_.mutable_environment()->set_send_context(true);
  PutVersion1("classification_version_1.pb");
  v1::RewardModelState written;
  ASSERT_TRUE(ReadProto("/run/reward_model.pb", &written, files_).ok());
  const auto read = Read();
  ASSERT_TRUE(read.ok() && read->has_value()) << read.status();
  EXPECT_EQ(Rows(**read), Rows(written));
  EXPECT_EQ((*read)->run_id(), "run");
  EXPECT_EQ((*read)->next_sequence(), 6u);
  EXPECT_EQ((*read)->judge(), "rules:test@1");
  EXPECT_EQ((*read)->learner_incarnation(), 8u);
  std::map<std::string, v1::RewardCaption> captions;
  for (const v1::RewardCaption& caption : (*read)->captions()) captions[caption.text()] = caption;
  ASSERT_EQ(captions.size(), 6u) << "one without a text among them";
  const v1::RewardCaption& door = captions["You open the red door."];
  EXPECT_EQ(door.count(), 25u);
  EXPECT_EQ(door.learner_count(), 5u) << "the rest came from an earlier learner";
  EXPECT_EQ(door.answers(), 2u);
  EXPECT_EQ(door.good_sum(), 1.75);
  EXPECT_EQ(door.context(), "view of You open the red door.");
  EXPECT_EQ(captions["You bump into a wall."].unanswered(), 1u);
  EXPECT_TRUE(captions["Sie öffnen die Tür. 你打开了门。"].asked());
  EXPECT_EQ(captions[""].count(), 6u);

  // What was labelled then is worth the same now, and is not asked about again.
  Metrics metrics;
  Coordinator again(experiment_, std::make_unique<Retrieval>(experiment_.reward_model()), 101, Clock::Real(), metrics);
  ASSERT_TRUE(Restore(again, written).ok());
  FakeLearner learner(again, 8);
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_EQ(learner.table.Of("You open the red door."), 0.875F);
  EXPECT_EQ(learner.table.Of("You bump into a wall."), 0);
  EXPECT_EQ(learner.table.Of("You drop the grey key."), -1);

  // The first checkpoint takes its place.
  ASSERT_TRUE(Make(files_, "/run")->Write().ok());
  EXPECT_FALSE(files_.Exists("/run/reward_model.pb"));
  EXPECT_EQ((*Read())->captions_size(), 1) << "a door";
}

TEST_F(CheckpointTest, TakesOverTheComparisonsOfVersion1) {
  experiment_.mutable_reward_model()->set_kind(v1::REWARD_MODEL_KIND_RANKING);
  PutVersion1("ranking_version_1.pb");
  const auto read = Read();
  ASSERT_TRUE(read.ok() && read->has_value()) << read.status();
  ASSERT_EQ((*read)->comparisons_size(), 3);
  EXPECT_EQ((*read)->comparisons(0).first(), CaptionId("a"));
  EXPECT_EQ((*read)->comparisons(0).second(), CaptionId("b"));
  EXPECT_EQ((*read)->comparisons(0).first_better(), 0.8125) << "a tie counts half";
  EXPECT_FALSE((*read)->comparisons(2).answered());
}

TEST_F(CheckpointTest, RefusesAFormatThatItDoesNotKnow) {
  PutVersion1("classification_version_1.pb");
  v1::RewardModelState state;
  ASSERT_TRUE(ReadProto("/run/reward_model.pb", &state, files_).ok());
  state.set_format_version(77);
  ASSERT_TRUE(WriteProtoDurably("/run/reward_model.pb", state, files_).ok());
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Read().status().message()), HasSubstr("has format 77, this program reads 1"));
}

// At whatever operation the disk fills up: the error is told, and what was there before is there after.
TEST_F(CheckpointTest, AFullDiskIsAnErrorAndCostsNothingThatWasSaved) {
  ASSERT_TRUE(Make(files_, "/run")->Close().ok());
  annotator_.Answer("a door", 0.75);
  Follow();
  for (int64_t operation = 1;; ++operation) {
    const auto checkpointer = Make(files_, "/run");
    files_.FailFrom(files_.operations() + operation, absl::ResourceExhaustedError("No space left on device"));
    const absl::Status written = checkpointer->Write();
    files_.FailFrom(0);
    ASSERT_TRUE(Read().ok() && Read()->has_value()) << operation;
    if (written.ok()) break;
    EXPECT_EQ(written.code(), absl::StatusCode::kResourceExhausted) << operation;
    ASSERT_LT(operation, 100);
  }
  EXPECT_EQ(AnswersRead(), 1u);
}

TEST_F(CheckpointTest, AFileIsWrittenAnewOnceItHasGrown) {
  const auto checkpointer = Make(files_, "/run");
  ASSERT_TRUE(checkpointer->Write().ok());
  for (int i = 0; i < 3000; ++i) learner_.See(absl::StrCat("caption ", i));
  learner_.SeeAndTell("last");
  double most = 0;
  int anew = 0;
  for (int i = 0; i < 80; ++i) {
    for (int k = 0; k < 3000; ++k) learner_.See(absl::StrCat("caption ", k));
    learner_.SeeAndTell("last");
    const double before = model_.metrics().checkpoint_bytes.Value();
    ASSERT_TRUE(checkpointer->Write().ok());
    anew += model_.metrics().checkpoint_bytes.Value() < before;
    most = std::max(most, model_.metrics().checkpoint_bytes.Value());
  }
  EXPECT_GE(anew, 2);
  EXPECT_LT(most, 2e6) << "at least a megabyte is appended";
  EXPECT_EQ(Rows(**Read()), Rows(Checkpoint(model_)));
}

TEST_F(CheckpointTest, ComesByItselfAndEndsTheProcessWhenItCannotBeWritten) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64());
  std::filesystem::create_directories(folder);
  {
    const auto checkpointer = Make(FileSystem::Real(), folder, absl::Milliseconds(1));
    EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(folder / "reward_model.records"); }));
    EXPECT_TRUE(Eventually([&] { return model_.metrics().checkpoint_timestamp.Value() > 0; }));
    EXPECT_FALSE(ending_.requested());
  }
  {
    const auto nowhere = Make(FileSystem::Real(), folder / "missing", absl::Milliseconds(1));
    EXPECT_TRUE(Eventually([&] { return ending_.requested(); }));
    EXPECT_FALSE(ending_.failure().ok());
    EXPECT_FALSE(nowhere->Close().ok()) << "the end tells it too";
  }
  std::filesystem::remove_all(folder);
}

TEST_F(CheckpointTest, AnHourBetweenCheckpointsDoesNotDelayTheEnd) {
  const absl::Time start = absl::Now();
  Make(files_, "/run");
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

}  // namespace
}  // namespace sibyl::reward_model
