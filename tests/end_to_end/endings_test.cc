// How the real learner ends, and how it comes back: what was lost is said, and a run stays the same run.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/checkpoints.h"
#include "common/rpc/server.h"
#include "common/runtime/ending.h"
#include "sibyl/v1/reward.grpc.pb.h"
#include "tests/process.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

// A reward model that takes only the run that it heard of first.
class FakeRewardModel : public v1::RewardService::Service {
 public:
  grpc::Status Rewards(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<v1::RewardModelToLearner, v1::LearnerToRewardModel>* stream) override {
    v1::LearnerToRewardModel in;
    if (!stream->Read(&in)) return grpc::Status::OK;
    {
      MutexLock lock(mutex_);
      if (run_id_.empty()) run_id_ = in.hello().run_id();
      if (run_id_ != in.hello().run_id()) return {grpc::StatusCode::FAILED_PRECONDITION, "another run"};
      ++learners_;
    }
    v1::RewardModelToLearner out;
    out.mutable_hello()->set_incarnation(1);
    stream->Write(out);
    while (stream->Read(&in)) {
    }
    return grpc::Status::OK;
  }
  int learners() {
    MutexLock lock(mutex_);
    return learners_;
  }
  void Expect(const std::string& run_id) {
    MutexLock lock(mutex_);
    run_id_ = run_id;
  }

 private:
  Mutex mutex_;
  std::string run_id_ ABSL_GUARDED_BY(mutex_);
  int learners_ ABSL_GUARDED_BY(mutex_) = 0;
};

class EndingsTest : public testing::Test {
 protected:
  EndingsTest() : server_(*rpc::Server::Start("127.0.0.1:0", {&rewards_})) {
    std::string folder = testing::TempDir() + "/endings.XXXXXX";
    folder_ = mkdtemp(folder.data());
    std::ofstream(folder_ + "/config.textproto") << R"(environment { name: "debug/Alignment" }
        total_steps: 64
        actor { processes: 1 environments: 4 } learner { unroll_length: 4 batch_size: 16 }
        reward_model { goal: "go on" } annotator { rules_file: "none" })";
  }
  ~EndingsTest() override { fs::remove_all(folder_); }

  std::unique_ptr<Process> Learner(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl-learner",
                                          "--config=" + folder_ + "/config.textproto",
                                          "--run_dir=" + folder_,
                                          "--listen=127.0.0.1:0",
                                          "--metrics_listen=127.0.0.1:0",
                                          "--resume",
                                          absl::StrCat("--reward_model=127.0.0.1:", server_->port())};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<Process>(arguments);
  }

  FakeRewardModel rewards_;
  const std::unique_ptr<rpc::Server> server_;
  std::string folder_;
};

TEST_F(EndingsTest, ALearnerThatCannotWriteItsLastCheckpointSaysSo) {
  const auto learner = Learner();
  ASSERT_TRUE(Eventually([&] { return fs::exists(folder_ + "/checkpoints/newest"); }));
  fs::remove_all(folder_ + "/checkpoints");
  std::ofstream(folder_ + "/checkpoints") << "full";
  learner->Signal(SIGTERM);
  EXPECT_EQ(learner->Wait(), kExitFailed) << learner->log();
  EXPECT_TRUE(learner->Says("the checkpoint of 0 steps is not saved: cannot")) << learner->log();
}

TEST_F(EndingsTest, AFinishedRunThatCannotWriteItsLastWeightsIsNoSuccess) {
  const auto learner = Learner();
  ASSERT_TRUE(Eventually([&] { return fs::exists(folder_ + "/checkpoints/newest"); }));
  fs::remove_all(folder_ + "/checkpoints");
  std::ofstream(folder_ + "/checkpoints") << "full";
  Process actor({SIBYL_BIN_DIR "/sibyl-actor", absl::StrCat("--learner=127.0.0.1:", learner->NumberAfter("(port ")),
                 "--metrics_listen=127.0.0.1:0"});
  EXPECT_EQ(learner->Wait(), kExitFailed) << learner->log();
  EXPECT_TRUE(learner->Says("is not saved")) << learner->log();
}

TEST_F(EndingsTest, ALearnerKilledBeforeItsFirstCheckpointIsStillTheSameRun) {
  {
    const auto learner = Learner();
    ASSERT_TRUE(learner->Says("following reward model")) << learner->log();
    learner->Signal(SIGKILL);
    learner->Wait();
  }
  fs::remove_all(folder_ + "/checkpoints");  // as if the kill had come before it was durable
  const auto again = Learner();
  EXPECT_TRUE(again->Says("following reward model")) << again->log();
  EXPECT_EQ(rewards_.learners(), 2);
  again->Signal(SIGTERM);
  EXPECT_EQ(again->Wait(), kExitStopped) << again->log();
}

TEST_F(EndingsTest, ALearnerThatIsRefusedByTheRewardModelEndsWithTheReason) {
  rewards_.Expect("somebody else's");
  const auto learner = Learner();
  EXPECT_EQ(learner->Wait(), kExitFailed) << learner->log();
  EXPECT_TRUE(learner->Says("refuses this learner: another run")) << learner->log();
}

TEST_F(EndingsTest, LeftoversOfAKillAreRemovedAndADamagedCheckpointIsPassedOver) {
  {
    const auto learner = Learner();
    ASSERT_TRUE(Eventually([&] { return fs::exists(folder_ + "/checkpoints/newest"); }));
    learner->Signal(SIGTERM);
    ASSERT_EQ(learner->Wait(), kExitStopped) << learner->log();
  }
  const fs::path checkpoints = folder_ + "/checkpoints", good = checkpoints / "checkpoint-000000000000";
  fs::create_directories(checkpoints / "checkpoint-000000000128.tmp");
  std::ofstream(folder_ + "/episodes.pb.tmp") << "half";
  fs::copy(good, checkpoints / "checkpoint-000000000032");
  fs::resize_file(checkpoints / "checkpoint-000000000032/weights.safetensors", 100);
  const auto learner = Learner();
  EXPECT_TRUE(learner->Says("passing over checkpoint-000000000032")) << learner->log();
  EXPECT_TRUE(learner->Says("going on from " + good.string() + ": 0 steps")) << learner->log();
  EXPECT_TRUE(Eventually([&] { return fs::exists(checkpoints / "checkpoint-000000000032.damaged"); }));
  EXPECT_FALSE(fs::exists(checkpoints / "checkpoint-000000000128.tmp"));
  EXPECT_FALSE(fs::exists(folder_ + "/episodes.pb.tmp"));
}

TEST_F(EndingsTest, WrongConfigurationEndsWithTwo) {
  const auto learner = Learner({"--set", "learner.batch_size=10"});
  EXPECT_EQ(learner->Wait(), kExitUsage) << learner->log();
}

}  // namespace
}  // namespace sibyl
