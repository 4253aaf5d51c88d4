// What the real learner answers to actors that break the contract, and to bad flags.

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "environments/registry.h"
#include "sibyl/v1/act.grpc.pb.h"
#include "tests/process.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

class ActContractTest : public testing::Test {
 protected:
  ActContractTest() {
    std::string folder = testing::TempDir() + "/act.XXXXXX";
    folder_ = mkdtemp(folder.data());
    std::ofstream(folder_ + "/config.textproto") << R"(environment { name: "debug/Alignment" }
        actor { processes: 1 environments: 4 silence_seconds: 1 } learner { unroll_length: 4 batch_size: 16 }
        reward { intrinsic_coefficient: 0 })";
  }
  ~ActContractTest() override {
    learner_.reset();
    fs::remove_all(folder_);
  }

  std::unique_ptr<Process> Learner(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl-learner", "--config=" + folder_ + "/config.textproto",
                                          "--run_dir=" + folder_, "--listen=127.0.0.1:0",
                                          "--metrics_listen=127.0.0.1:0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<Process>(arguments);
  }

  void Connect() {
    learner_ = Learner();
    port_ = learner_->NumberAfter("(port ");
    ASSERT_GT(port_, 0) << learner_->log();
  }

  // One stream to the learner, spoken by hand.
  struct Stream {
    explicit Stream(int port)
        : stub(v1::ActService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)))),
          stream(stub->Act(&context)) {}
    // The status with which the learner ends the stream.
    grpc::Status End() {
      v1::LearnerMessage in;
      while (stream->Read(&in)) {
      }
      return stream->Finish();
    }
    // The learner's welcome.
    v1::ActorWelcome Hello(uint32_t version = kProtocolVersion, const v1::SlotLease* lease = nullptr) {
      v1::ActorMessage out;
      out.mutable_hello()->set_protocol_version(version);
      out.mutable_hello()->set_actor("test:1");
      if (lease != nullptr) *out.mutable_hello()->mutable_lease() = *lease;
      stream->Write(out);
      v1::LearnerMessage in;
      stream->Read(&in);
      return in.welcome();
    }
    void Ready(const v1::EnvironmentSpec& spec) {
      v1::ActorMessage out;
      *out.mutable_ready()->mutable_environment() = spec;
      stream->Write(out);
    }
    grpc::ClientContext context;
    std::unique_ptr<v1::ActService::Stub> stub;
    std::unique_ptr<grpc::ClientReaderWriter<v1::ActorMessage, v1::LearnerMessage>> stream;
  };

  std::string folder_;
  std::unique_ptr<Process> learner_;
  int port_ = 0;
};

TEST_F(ActContractTest, RefusesAnotherProtocolAndNamesBoth) {
  Connect();
  Stream stream(port_);
  stream.Hello(kProtocolVersion + 41);
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find(absl::StrCat("protocol ", kProtocolVersion + 41)), std::string::npos);
  EXPECT_NE(status.error_message().find(absl::StrCat("learner ", kProtocolVersion)), std::string::npos);
}

TEST_F(ActContractTest, RefusesAStaleLeaseAndGivesTheSlotToAHolderOfTheNewestOne) {
  Connect();
  Stream first(port_);
  const v1::SlotLease lease = first.Hello().lease();
  EXPECT_NE(lease.token(), 0u);
  Stream again(port_);
  const v1::SlotLease newer = again.Hello(kProtocolVersion, &lease).lease();
  EXPECT_EQ(newer.slot(), lease.slot());
  EXPECT_NE(newer.token(), lease.token());
  EXPECT_EQ(first.End().error_code(), grpc::StatusCode::UNAVAILABLE);
  Stream stale(port_);
  stale.Hello(kProtocolVersion, &lease);
  const grpc::Status status = stale.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("stale"), std::string::npos);
}

TEST_F(ActContractTest, RefusesAnActorWhenAllSlotsAreTaken) {
  Connect();
  Stream first(port_);
  first.Hello();
  Stream second(port_);
  second.Hello();
  const grpc::Status status = second.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("actor.processes"), std::string::npos);
}

TEST_F(ActContractTest, RefusesAnotherEnvironmentAndNamesTheDifference) {
  Connect();
  Stream stream(port_);
  stream.Hello();
  v1::EnvironmentSpec spec = *FindEnvironmentSpec("debug/Alignment");
  spec.set_actions(2, "jump");
  stream.Ready(spec);
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("jump"), std::string::npos);
}

TEST_F(ActContractTest, RefusesAStepWhoseColumnsDoNotFitAndGoesOnWithOthers) {
  Connect();
  {
    Stream stream(port_);
    stream.Hello();
    stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
    v1::ActorMessage out;
    out.mutable_step()->set_flags("\4");
    stream.stream->Write(out);
    EXPECT_EQ(stream.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  ASSERT_TRUE(Eventually([&] { return Stream(port_).Hello().has_lease(); }));
}

TEST_F(ActContractTest, DropsAnActorThatIsSilentOnItsTurn) {
  Connect();
  Stream stream(port_);
  stream.Hello();
  stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("silent"), std::string::npos);
}

TEST_F(ActContractTest, ExitsWithTheReasonOnBadFlagsAndPorts) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& reason) {
    auto learner = Learner(flags);
    EXPECT_NE(learner->Wait(), 0);
    EXPECT_TRUE(learner->Says(reason)) << learner->log();
  };
  expect({"--set", "learner.batch_size=10"},
         "learner.batch_size is 10, must be a multiple of learner.unroll_length (4)");
  expect({"--set", "learner.unroll_slots=5"}, "must be at least 12");
  expect({"--set", "environment.name=minigrid/Nowhere"}, "minigrid/DoorKey-8x8");
  expect({"--set", "reward.intrinsic_coefficient=1", "--set", "reward_model.goal=x", "--set", "annotator.rules_file=x"},
         "--reward_model is not set");
  expect({"--set", "learner.device=cuda"}, "learner.device");
  Connect();
  expect({"--run_dir=" + folder_ + "/other", absl::StrCat("--listen=127.0.0.1:", port_)}, "in use");
}

TEST_F(ActContractTest, LeavesWithACheckpointOnSigterm) {
  Connect();
  learner_->Signal(SIGTERM);
  EXPECT_EQ(learner_->Wait(), 0) << learner_->log();
  EXPECT_TRUE(fs::exists(folder_ + "/checkpoints/checkpoint-000000000000/state.pb"));
  EXPECT_TRUE(fs::exists(folder_ + "/learner_summary.json"));
  auto again = Learner();
  EXPECT_NE(again->Wait(), 0);
  EXPECT_TRUE(again->Says("--resume")) << again->log();
}

}  // namespace
}  // namespace sibyl
