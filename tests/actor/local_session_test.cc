// The stream of the actor that holds the policy itself, with a learner that a test plays.

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "actor/local/session.h"
#include "common/columns.h"
#include "environments/registry.h"
#include "policy/weights.h"
#include "sibyl/v1/unroll.grpc.pb.h"
#include "tests/actor/session_run.h"

namespace sibyl::actor {
namespace {

using testing::HasSubstr;
using ServerSide = grpc::ServerReaderWriter<v1::LocalLearnerMessage, v1::LocalActorMessage>;

constexpr int kEnvironments = 2, kT = 8;

class FakeLearner : public v1::UnrollService::Service {
 public:
  grpc::Status Play(grpc::ServerContext*, ServerSide* stream) override { return handle(streams++, *stream); }
  std::function<grpc::Status(int, ServerSide&)> handle;
  std::atomic<int> streams = 0;
};

class LocalSessionTest : public testing::Test {
 protected:
  void Start(std::function<grpc::Status(int, ServerSide&)> handle) {
    learner_.handle = std::move(handle);
    run_.Start();
  }
  // The hello and the ready; the hello is returned.
  v1::ActorHello Begin(ServerSide& stream, uint64_t token) {
    v1::LocalActorMessage in;
    EXPECT_TRUE(stream.Read(&in));
    const v1::ActorHello hello = in.hello();
    v1::LocalLearnerMessage out;
    *out.mutable_welcome()->mutable_actor() = TestWelcome(token, kEnvironments, 1);
    out.mutable_welcome()->set_unroll_length(kT);
    out.mutable_welcome()->set_threads(1);
    *out.mutable_welcome()->mutable_policy() = config_;
    stream.Write(out);
    EXPECT_TRUE(stream.Read(&in));
    EXPECT_EQ(in.ready().environment().name(), "debug/Alignment");
    return hello;
  }
  void RequestBatch(ServerSide& stream, uint64_t sequence, uint64_t version) {
    v1::LocalLearnerMessage out;
    out.mutable_batch_request()->set_sequence(sequence);
    out.mutable_batch_request()->mutable_weights()->set_policy_version(version);
    out.mutable_batch_request()->mutable_weights()->set_safetensors(*EncodePolicy(*policy_));
    stream.Write(out);
  }
  // The next batch of unrolls.
  static v1::UnrollBatch Batch(ServerSide& stream) {
    v1::LocalActorMessage in;
    while (stream.Read(&in) && !in.has_unrolls()) EXPECT_TRUE(in.has_playing());
    return in.unrolls();
  }

  const v1::PolicyConfig config_ = [] {
    v1::PolicyConfig config;
    config.set_kind(v1::POLICY_KIND_MLP);
    return config;
  }();
  const std::shared_ptr<Policy> policy_ = *MakePolicy(config_, *FindEnvironmentSpec("debug/Alignment", {}));
  FakeLearner learner_;
  SessionRun run_{&learner_, PlayLocallyFor};
};

const grpc::Status kEnough(grpc::StatusCode::INVALID_ARGUMENT, "that is all");

TEST_F(LocalSessionTest, SendsEachBatchThatIsRequestedPlayedWithTheWeightsThatCame) {
  Start([this](int, ServerSide& stream) {
    Begin(stream, 1);
    for (uint64_t round = 0; round < 3; ++round) {
      RequestBatch(stream, round, /*version=*/100 * (round + 1));
      const v1::UnrollBatch batch = Batch(stream);
      EXPECT_EQ(batch.sequence(), round);
      EXPECT_EQ(batch.steps_size(), round == 0 ? kT + 1 : kT) << "the first brings what the reset showed";
      EXPECT_EQ(CountIn<uint16_t>(batch.action()), static_cast<size_t>(kT * kEnvironments));
      // A quarter of a round may be played before the request for it comes.
      for (int t = 0; t < kT; ++t) {
        const uint64_t version = EntryOf<uint64_t>(batch.policy_version(), t);
        if (t >= kT / 4) {
          EXPECT_EQ(version, 100 * (round + 1)) << t;
        }
        EXPECT_GE(version, 100 * std::max<uint64_t>(round, 1)) << t;
      }
    }
    return kEnough;
  });
  run_.Join();
  EXPECT_THAT(std::string(run_.ended.message()), HasSubstr("that is all"));
  EXPECT_EQ(run_.program.watch.metrics.Counter("sibyl_actor_steps_total", "").Value(), 3 * kT * kEnvironments);
}

TEST_F(LocalSessionTest, ComesBackWithItsLeaseAfterALostStream) {
  std::vector<v1::ActorHello> hellos;
  Start([&](int number, ServerSide& stream) {
    hellos.push_back(Begin(stream, 100 + number));
    RequestBatch(stream, 0, 1);
    EXPECT_EQ(Batch(stream).sequence(), 0u) << "each stream counts from 0";
    return number < 2 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping") : kEnough;
  });
  run_.Join();
  ASSERT_EQ(hellos.size(), 3u);
  EXPECT_FALSE(hellos[0].has_lease());
  EXPECT_EQ(hellos[2].lease().token(), 101u);
}

TEST_F(LocalSessionTest, WeightsOfAnotherNetworkEndIt) {
  Start([&](int, ServerSide& stream) {
    Begin(stream, 1);
    v1::LocalLearnerMessage out;
    out.mutable_batch_request()->mutable_weights()->set_policy_version(7);
    out.mutable_batch_request()->mutable_weights()->set_safetensors("no such thing");
    stream.Write(out);
    Batch(stream);
    return grpc::Status::OK;
  });
  run_.Join();
  EXPECT_THAT(std::string(run_.ended.message()), HasSubstr("weights of version 7"));
  EXPECT_EQ(learner_.streams, 1);
}

TEST_F(LocalSessionTest, WaitingForARequestIsNoHangAndAStopEndsIt) {
  std::atomic<bool> waits = false;
  Start([&](int, ServerSide& stream) {
    Begin(stream, 1);
    RequestBatch(stream, 0, 1);
    Batch(stream);
    waits = true;
    v1::LocalActorMessage in;
    while (stream.Read(&in)) {
    }
    return grpc::Status::OK;
  });
  ASSERT_TRUE(Eventually([&] { return waits.load(); }));
  EXPECT_TRUE(run_.program.watch.ComesBackAfter(absl::Hours(1)));
  EXPECT_EQ(run_.program.watch.Silence("playing"), 0);
  EXPECT_EQ(run_.program.watch.Silence("reader"), 0);
  run_.Stop();
  EXPECT_EQ(run_.ended, absl::OkStatus());
}

}  // namespace
}  // namespace sibyl::actor
