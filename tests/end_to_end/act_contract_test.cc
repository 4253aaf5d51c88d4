// What the real learner answers to actors of both kinds that break the contract, and to bad flags.

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/runtime/ending.h"
#include "common/step_flags.h"
#include "common/tensor_packing.h"
#include "environments/registry.h"
#include "sibyl/v1/act.grpc.pb.h"
#include "sibyl/v1/unroll.grpc.pb.h"
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
        actor { processes: 1 environments: 4 silence_seconds: 1 } learner { unroll_length: 4 batch_size: 16 max_actors: 1 }
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
  template <typename Out, typename In>
  struct AnyStream {
    // The status with which the learner ends the stream.
    grpc::Status End() {
      In in;
      while (stream->Read(&in)) {
      }
      return stream->Finish();
    }
    void Write(const Out& out) { stream->Write(out); }
    // The learner's answer to a hello.
    In Greet(uint32_t version, const v1::SlotLease* lease) {
      Out out;
      out.mutable_hello()->set_protocol_version(version);
      out.mutable_hello()->set_actor("test:1");
      if (lease != nullptr) *out.mutable_hello()->mutable_lease() = *lease;
      stream->Write(out);
      In in;
      stream->Read(&in);
      return in;
    }
    void Ready(const v1::EnvironmentSpec& spec) {
      Out out;
      *out.mutable_ready()->mutable_environment() = spec;
      stream->Write(out);
    }
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<Out, In>> stream;
  };
  struct Stream : AnyStream<v1::ActorMessage, v1::LearnerMessage> {
    explicit Stream(int port) : stub(v1::ActService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)))) {
      stream = stub->Act(&context);
    }
    v1::ActorWelcome Hello(uint32_t version = kProtocolVersion, const v1::SlotLease* lease = nullptr) {
      return Greet(version, lease).welcome();
    }
    std::unique_ptr<v1::ActService::Stub> stub;
  };
  struct LocalStream : AnyStream<v1::LocalActorMessage, v1::LocalLearnerMessage> {
    explicit LocalStream(int port)
        : stub(v1::UnrollService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)))) {
      stream = stub->Play(&context);
    }
    v1::LocalWelcome Hello(uint32_t version = kProtocolVersion, const v1::SlotLease* lease = nullptr) {
      return Greet(version, lease).welcome();
    }
    // What the learner says once the actor is ready.
    v1::BatchRequest Ready(const v1::EnvironmentSpec& spec) {
      AnyStream::Ready(spec);
      v1::LocalLearnerMessage in;
      stream->Read(&in);
      return in.batch_request();
    }
    std::unique_ptr<v1::UnrollService::Stub> stub;
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
  spec.mutable_action()->mutable_discrete()->mutable_parts(0)->set_choices(2, "jump");
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

TEST_F(ActContractTest, RefusesANumberThatIsNotFiniteNamingTheActorAndGoesOnWithOthers) {
  Connect();
  {
    Stream stream(port_);
    stream.Hello();
    stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
    v1::ActorMessage out;
    v1::StepBatch& step = *out.mutable_step();
    std::string observations;
    for (float reward : {0.f, std::numeric_limits<float>::quiet_NaN()}) {
      AppendTo<float>(step.mutable_reward(), reward);
      step.mutable_flags()->push_back(kStepFirst);
      AppendTo<uint64_t>(step.mutable_caption_id(), 0);
      AppendTo<uint32_t>(step.mutable_caption_count(), 0);
      AppendTo<uint64_t>(step.mutable_first_caption_id(), 0);
      AppendTo<uint64_t>(step.mutable_first_episode(), 0);
      observations.append(sizeof(int64_t) + 2 * sizeof(int32_t), '\0');
    }
    ObservationPacker(v1::PACKING_CODEC_RAW).Pack(observations, 2, step.mutable_observation());
    stream.stream->Write(out);
    const grpc::Status status = stream.End();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(),
              "actor test:1 in slot 0: not finite: reward 1 is nan, must be between -1e+09 and 1e+09");
  }
  ASSERT_TRUE(Eventually([&] { return Stream(port_).Hello().has_lease(); }));
}

TEST_F(ActContractTest, RefusesAnEpisodeThatWasNotGranted) {
  Connect();
  Stream stream(port_);
  const uint64_t end = stream.Hello().episodes().end();
  stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
  v1::ActorMessage out;
  AppendTo<uint64_t>(out.mutable_step()->mutable_first_episode(), end);
  stream.stream->Write(out);
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find(absl::StrCat("episode ", end, " is not among those granted")),
            std::string::npos);
}

TEST_F(ActContractTest, DropsAStreamThatNeverSaysHello) {
  Connect();
  Stream stream(port_);
  LocalStream local(port_);
  for (const grpc::Status& status : {stream.End(), local.End()}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_NE(status.error_message().find("silent"), std::string::npos);
  }
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

TEST_F(ActContractTest, TellsALocalActorEverythingAndSendsItTheFirstWeights) {
  Connect();
  LocalStream stream(port_);
  const v1::LocalWelcome welcome = stream.Hello();
  EXPECT_EQ(welcome.actor().environment(), "debug/Alignment");
  EXPECT_EQ(welcome.actor().environments(), 4u);
  EXPECT_EQ(welcome.actor().groups(), 1u);
  EXPECT_EQ(welcome.unroll_length(), 4u);
  EXPECT_EQ(welcome.policy().kind(), v1::POLICY_KIND_AUTO);
  EXPECT_EQ(welcome.threads(), 1u);
  const v1::BatchRequest request = stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
  EXPECT_EQ(request.sequence(), 0u);
  EXPECT_EQ(request.weights().policy_version(), 0u);
  EXPECT_FALSE(request.weights().safetensors().empty());
}

TEST_F(ActContractTest, RefusesALocalActorOfAnotherProtocolOrEnvironment) {
  Connect();
  {
    LocalStream stream(port_);
    stream.Hello(kProtocolVersion + 41);
    const grpc::Status status = stream.End();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_NE(status.error_message().find(absl::StrCat("protocol ", kProtocolVersion + 41)), std::string::npos);
    EXPECT_NE(status.error_message().find(absl::StrCat("learner ", kProtocolVersion)), std::string::npos);
  }
  LocalStream stream(port_);
  stream.Hello();
  v1::EnvironmentSpec spec = *FindEnvironmentSpec("debug/Alignment");
  spec.mutable_action()->mutable_discrete()->mutable_parts(0)->set_choices(2, "jump");
  stream.Ready(spec);
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("jump"), std::string::npos);
}

TEST_F(ActContractTest, SlotsAndLeasesAreTheSameForBothKindsOfActors) {
  Connect();
  Stream first(port_);
  const v1::SlotLease lease = first.Hello().lease();
  {
    LocalStream second(port_);
    second.Hello();
    EXPECT_EQ(second.End().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  LocalStream again(port_);
  const v1::SlotLease newer = again.Hello(kProtocolVersion, &lease).actor().lease();
  EXPECT_EQ(newer.slot(), lease.slot());
  EXPECT_NE(newer.token(), lease.token());
  EXPECT_EQ(first.End().error_code(), grpc::StatusCode::UNAVAILABLE);
  LocalStream stale(port_);
  stale.Hello(kProtocolVersion, &lease);
  const grpc::Status status = stale.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("stale"), std::string::npos);
}

TEST_F(ActContractTest, RefusesABadUnrollBatchAndOneOutOfTurn) {
  Connect();
  const auto refused = [&](bool ready) {
    LocalStream stream(port_);
    stream.Hello();
    if (ready) stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
    v1::LocalActorMessage out;
    out.mutable_unrolls()->add_steps();
    stream.Write(out);
    return stream.End();
  };
  // Until the slot of the last one is free again.
  for (const auto& [ready, reason] : {std::pair(true, "has 1 steps, must have 5"), std::pair(false, "out of turn")}) {
    grpc::Status status;
    ASSERT_TRUE(Eventually([&, ready = ready] {
      status = refused(ready);
      return status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED;
    }));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_NE(status.error_message().find(reason), std::string::npos) << status.error_message();
  }
}

TEST_F(ActContractTest, DropsALocalActorThatIsSilentThoughABatchIsRequested) {
  Connect();
  LocalStream stream(port_);
  stream.Hello();
  stream.Ready(*FindEnvironmentSpec("debug/Alignment"));
  // As long as it says that it plays it may take its time; the learner looks once a second.
  v1::LocalActorMessage out;
  out.mutable_playing();
  const absl::Time until = absl::Now() + absl::Seconds(2.5);
  ASSERT_TRUE(Eventually([&] { return !stream.stream->Write(out) || absl::Now() > until; }));
  EXPECT_GE(absl::Now(), until);
  const grpc::Status status = stream.End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("silent"), std::string::npos);
}

// Welcomes an actor and then refuses its environment.
class OtherLearner : public v1::ActService::Service {
 public:
  grpc::Status Act(grpc::ServerContext*,
                   grpc::ServerReaderWriter<v1::LearnerMessage, v1::ActorMessage>* stream) override {
    ++streams;
    v1::ActorMessage in;
    v1::LearnerMessage out;
    stream->Read(&in);
    v1::ActorWelcome& welcome = *out.mutable_welcome();
    welcome.set_protocol_version(kProtocolVersion);
    welcome.set_environment("debug/Alignment");
    welcome.set_environments(2);
    welcome.set_groups(1);
    welcome.mutable_lease()->set_token(5);
    welcome.mutable_episodes()->set_end(1000);
    welcome.set_codec(v1::PACKING_CODEC_RAW);
    stream->Write(out);
    stream->Read(&in);
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "action 2 is `jump`, not `action2`");
  }
  std::atomic<int> streams = 0;
};

TEST_F(ActContractTest, AnActorWhoseEnvironmentDiffersEndsWithTheReasonAtOnce) {
  OtherLearner learner;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&learner);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  Process actor(
      {SIBYL_BIN_DIR "/sibyl-actor", absl::StrCat("--learner=127.0.0.1:", port), "--metrics_listen=127.0.0.1:0"});
  EXPECT_EQ(actor.Wait(), 1);
  EXPECT_TRUE(actor.Says("jump")) << actor.log();
  EXPECT_EQ(learner.streams, 1);
}

TEST_F(ActContractTest, ALocalActorWithoutALearnersAddressSaysSo) {
  Process actor({SIBYL_BIN_DIR "/sibyl-actor-local"});
  EXPECT_EQ(actor.Wait(), 2);
  EXPECT_TRUE(actor.Says("--learner is not set")) << actor.log();
}

TEST_F(ActContractTest, ExitsWithTheReasonOnBadFlagsAndPorts) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& reason) {
    auto learner = Learner(flags);
    EXPECT_NE(learner->Wait(), 0);
    EXPECT_TRUE(learner->Says(reason)) << learner->log();
  };
  expect({"--set", "learner.batch_size=10"},
         "learner.batch_size is 10, must be a multiple of learner.unroll_length (4)");
  expect({"--set", "environment.name=minigrid/DoorKey-8x9"}, "minigrid/DoorKey-8x8");
  expect({"--set", "reward.intrinsic_coefficient=1", "--set", "reward_model.goal=x", "--set", "annotator.rules_file=x"},
         "--reward_model is not set");
  expect({"--set", "learner.device=cuda"}, "learner.device");
  Connect();
  expect({"--run_dir=" + folder_ + "/other", absl::StrCat("--listen=127.0.0.1:", port_)}, "in use");
}

TEST_F(ActContractTest, LeavesWithACheckpointOnSigterm) {
  Connect();
  learner_->Signal(SIGTERM);
  EXPECT_EQ(learner_->Wait(), kExitStopped) << learner_->log();
  EXPECT_TRUE(fs::exists(folder_ + "/checkpoints/checkpoint-000000000000/state.records"));
  EXPECT_TRUE(fs::exists(folder_ + "/learner_summary.json"));
  auto again = Learner();
  EXPECT_NE(again->Wait(), 0);
  EXPECT_TRUE(again->Says("--resume")) << again->log();
}

}  // namespace
}  // namespace sibyl
