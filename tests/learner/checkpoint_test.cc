#include "learner/training/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/checkpoints.h"
#include "common/log.h"
#include "common/runtime/files.h"
#include "tests/common/fake_files.h"

namespace sibyl::learner {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kRun[] = "/run";

class CheckpointTest : public testing::Test {
 protected:
  // Thousands of damaged checkpoints are read, and each one is logged.
  CheckpointTest() {
    spdlog::set_level(spdlog::level::off);
    EXPECT_TRUE(OpenCheckpointFolder(kRun, files_).ok());
  }

  absl::Status Write(uint64_t steps, const std::string& weights = "weights", int keep = 3) {
    v1::LearnerState state;
    state.set_format_version(kLearnerStateVersion);
    state.set_run_id("a run");
    state.set_steps(steps);
    return WriteCheckpoint(
        kRun, state, [weights] { return weights; }, captions_, keep, files_);
  }
  void See(int captions) {
    google::protobuf::RepeatedPtrField<v1::CaptionText> texts;
    std::vector<uint64_t> ids;
    for (int i = 0; i < captions; ++i) {
      v1::CaptionText& text = *texts.Add();
      text.set_text(absl::StrCat("caption ", i));
      text.set_id(CaptionId(text.text()));
      ids.push_back(text.id());
    }
    std::vector<int32_t> rows(ids.size());
    captions_.See(ids, 1, rows.data());
    captions_.AddTexts(texts);
  }
  // The steps of the newest checkpoint that can be read; -1 without one.
  int64_t Newest(std::vector<std::string>* damaged = nullptr) {
    const auto checkpoint = ReadNewestCheckpoint(kRun, files_, damaged);
    return checkpoint.ok() ? static_cast<int64_t>(checkpoint->state.steps()) : -1;
  }
  std::vector<std::string> Names() { return *files_.List("/run/checkpoints"); }

  FakeFiles files_;
  CaptionTable captions_{100'000};
};

TEST_F(CheckpointTest, ComesBackWithAllCaptionsAndTheWeights) {
  See(10'000);  // several records
  ASSERT_TRUE(Write(1024).ok());
  const auto checkpoint = ReadNewestCheckpoint(kRun, files_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->name, "checkpoint-000000001024");
  EXPECT_EQ(checkpoint->state.run_id(), "a run");
  EXPECT_EQ(*ReadFile(checkpoint->weights, files_), "weights");
  ASSERT_EQ(checkpoint->state.captions_size(), 10'000);
  EXPECT_EQ(checkpoint->state.captions(9'999).text(), "caption 9999");
}

TEST_F(CheckpointTest, KeepsTheNewestAndNamesThem) {
  for (uint64_t steps : {1, 2, 3, 4}) ASSERT_TRUE(Write(steps, "w", 2).ok());
  EXPECT_THAT(Names(), ElementsAre("checkpoint-000000000003", "checkpoint-000000000004", "newest"));
  EXPECT_EQ(*ReadFile("/run/checkpoints/newest", files_), "checkpoint-000000000004");
}

// Every operation fails in turn, then power is lost: a checkpoint that was there is there still, and a write that was
// reported done is there.
TEST_F(CheckpointTest, AtNoInstantIsThereNoCheckpoint) {
  for (const uint64_t next : {uint64_t{7}, uint64_t{8}}) {  // replaces the one there is, and comes after it
    for (const bool names_kept : {false, true}) {
      bool reached = true;
      for (int64_t i = 1; reached; ++i) {
        files_.Clear();
        ASSERT_TRUE(OpenCheckpointFolder(kRun, files_).ok());
        ASSERT_TRUE(files_.SyncFolder("/").ok());
        ASSERT_TRUE(Write(7, "old").ok());
        const int64_t fail_at = files_.operations() + i;
        files_.FailFrom(fail_at);
        const absl::Status status = Write(next, "new");
        reached = files_.operations() >= fail_at;
        files_.LosePower(names_kept);
        const auto newest = ReadNewestCheckpoint(kRun, files_);
        ASSERT_TRUE(newest.ok()) << "operation " << i << ": " << newest.status();
        const std::string weights = *ReadFile(newest->weights, files_);
        EXPECT_THAT(weights, testing::AnyOf("old", "new"));
        if (status.ok()) {
          EXPECT_EQ(weights, "new");
        }
        // The next learner finds the same, cleans up, and can write.
        ASSERT_TRUE(OpenCheckpointFolder(kRun, files_).ok());
        EXPECT_EQ(*ReadFile(ReadNewestCheckpoint(kRun, files_)->weights, files_), weights);
        for (const std::string& name : Names()) {
          EXPECT_THAT(name, testing::Not(testing::HasSubstr("tmp")));
          EXPECT_THAT(name, testing::Not(testing::HasSubstr("replaced")));
        }
        ASSERT_TRUE(Write(9).ok());
        EXPECT_EQ(Newest(), 9);
      }
    }
  }
}

TEST_F(CheckpointTest, AFailedWriteIsReportedAndLeavesNothingBehind) {
  ASSERT_TRUE(Write(1).ok());
  const auto before = Names();
  files_.FailFrom(files_.operations() + 4, absl::ResourceExhaustedError("No space left on device"));
  const absl::Status status = Write(2);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("checkpoint-000000000002.tmp"));
  files_.FailFrom(0);
  ASSERT_TRUE(OpenCheckpointFolder(kRun, files_).ok());
  EXPECT_EQ(Names(), before);
}

TEST_F(CheckpointTest, ADamagedNewestIsPassedOverAndSetAside) {
  See(3);
  for (const std::string file : {"state.records", "weights.safetensors"}) {
    ASSERT_TRUE(Write(1).ok());
    ASSERT_TRUE(Write(2).ok());
    const std::string path = absl::StrCat("/run/checkpoints/checkpoint-000000000002/", file);
    const std::string good = *ReadFile(path, files_);
    for (size_t i = 0; i < good.size(); ++i) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 1);
      files_.Damage(path, bad);
      ASSERT_EQ(Newest(), 1) << file << " byte " << i;
    }
    files_.Damage(path, good.substr(0, good.size() / 2));
    EXPECT_EQ(Newest(), 1);
    ASSERT_TRUE(files_.Remove(path).ok());
    std::vector<std::string> damaged;
    EXPECT_EQ(Newest(&damaged), 1);
    EXPECT_THAT(damaged, ElementsAre("checkpoint-000000000002"));
    ASSERT_TRUE(SetAsideCheckpoints(kRun, damaged, files_).ok());
    EXPECT_THAT(CheckpointNames(kRun, files_), ElementsAre("checkpoint-000000000001"));
    EXPECT_TRUE(files_.Exists("/run/checkpoints/checkpoint-000000000002.damaged"));
  }
}

TEST_F(CheckpointTest, WhereAllAreDamagedNothingIsStartedAnew) {
  ASSERT_TRUE(Write(1).ok());
  files_.Damage("/run/checkpoints/checkpoint-000000000001/weights.safetensors", "");
  EXPECT_TRUE(absl::IsDataLoss(ReadNewestCheckpoint(kRun, files_).status()));
  // A disk that cannot be read is no damage: nothing is set aside because of it.
  files_.FailReads(absl::UnavailableError("Input/output error"));
  const absl::Status status = ReadNewestCheckpoint(kRun, files_).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Input/output error"));
}

TEST_F(CheckpointTest, ReadsTheFormatBeforeAndRefusesOneItDoesNotKnow) {
  v1::LearnerState state;
  state.set_format_version(1);
  state.set_steps(5);
  state.add_captions()->set_text("a caption");
  const std::string folder = "/run/checkpoints/checkpoint-000000000005";
  ASSERT_TRUE(files_.MakeFolders(folder).ok());
  ASSERT_TRUE(WriteProtoDurably(folder + "/state.pb", state, files_).ok());
  EXPECT_EQ(ReadNewestCheckpoint(kRun, files_)->state.captions(0).text(), "a caption");
  state.set_format_version(9);
  ASSERT_TRUE(WriteProtoDurably(folder + "/state.pb", state, files_).ok());
  const absl::Status status = ReadNewestCheckpoint(kRun, files_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 9"));
}

class CheckpointThreadTest : public CheckpointTest {
 protected:
  std::unique_ptr<CheckpointThread> Start() {
    return std::make_unique<CheckpointThread>(kRun, 3, &captions_, &files_, &clock_, &heartbeats_,
                                              [this](absl::Status status) { failures_.push_back(std::move(status)); });
  }
  static v1::LearnerState State(uint64_t steps) {
    v1::LearnerState state;
    state.set_format_version(kLearnerStateVersion);
    state.set_steps(steps);
    return state;
  }

  FakeClock clock_;
  Metrics metrics_;
  Heartbeats heartbeats_{clock_, metrics_};
  std::vector<absl::Status> failures_;  // the thread's until Close
};

TEST_F(CheckpointThreadTest, CloseWritesWhatWaits) {
  const auto thread = Start();
  thread->Write(State(1), [] { return "weights"; });
  thread->Write(State(2), [] { return "weights"; });
  EXPECT_TRUE(thread->Close().ok());
  EXPECT_EQ(Newest(), 2);
  EXPECT_TRUE(failures_.empty());
}

TEST_F(CheckpointThreadTest, CloseTellsThatTheNewestStateIsNotSaved) {
  const auto thread = Start();
  thread->Write(State(1), []() -> absl::StatusOr<std::string> { return absl::InternalError("no weights"); });
  const absl::Status status = thread->Close();
  EXPECT_THAT(std::string(status.message()), HasSubstr("the checkpoint of 1 steps is not saved: no weights"));
  EXPECT_EQ(failures_.size(), 1u);
  EXPECT_EQ(Newest(), -1);
}

TEST_F(CheckpointThreadTest, AnExceptionIsAFailureAndNoCrash) {
  const auto thread = Start();
  thread->Write(State(1), []() -> absl::StatusOr<std::string> { throw std::runtime_error("out of memory"); });
  EXPECT_THAT(std::string(thread->Close().message()), HasSubstr("out of memory"));
}

}  // namespace
}  // namespace sibyl::learner
