// The plain actor's stream, with a learner that a test plays.

#include "actor/session.h"

#include <grpcpp/grpcpp.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "common/columns.h"
#include "sibyl/v1/act.grpc.pb.h"
#include "tests/actor/session_run.h"

namespace sibyl::actor {
namespace {

using testing::HasSubstr;
using ServerSide = grpc::ServerReaderWriter<v1::LearnerMessage, v1::ActorMessage>;

constexpr int kEnvironments = 4, kGroups = 2, kRows = kEnvironments / kGroups;

// Each stream is handled by the test's function, with the number of the stream, counted from 0.
class FakeLearner : public v1::ActService::Service {
 public:
  grpc::Status Act(grpc::ServerContext*, ServerSide* stream) override { return handle(streams++, *stream); }
  std::function<grpc::Status(int, ServerSide&)> handle;
  std::atomic<int> streams = 0;
};

v1::LearnerMessage Actions(const v1::StepBatch& step, size_t count = kRows) {
  v1::LearnerMessage out;
  out.mutable_actions()->set_group(step.group());
  out.mutable_actions()->set_sequence(step.sequence());
  for (size_t i = 0; i < count; ++i) AppendTo<uint16_t>(out.mutable_actions()->mutable_action(), 0);
  return out;
}

class SessionTest : public testing::Test {
 protected:
  void Start(std::function<grpc::Status(int, ServerSide&)> handle) {
    learner_.handle = std::move(handle);
    run_.Start();
  }
  // The hello, the ready and the first step of each group; the hello is returned.
  static v1::ActorHello Begin(ServerSide& stream, uint64_t token) {
    v1::ActorMessage in;
    EXPECT_TRUE(stream.Read(&in));
    const v1::ActorHello hello = in.hello();
    v1::LearnerMessage out;
    *out.mutable_welcome() = TestWelcome(token, kEnvironments, kGroups);
    stream.Write(out);
    EXPECT_TRUE(stream.Read(&in));
    EXPECT_EQ(in.ready().environment().name(), "debug/Alignment");
    for (int group = 0; group < kGroups; ++group) {
      EXPECT_TRUE(stream.Read(&in));
      EXPECT_EQ(in.step().group(), static_cast<uint32_t>(group));
      EXPECT_EQ(in.step().sequence(), 0u);
      EXPECT_EQ(CountIn<float>(in.step().reward()), static_cast<size_t>(kRows));
    }
    return hello;
  }

  FakeLearner learner_;
  SessionRun run_{&learner_, PlayFor};
};

const grpc::Status kEnough(grpc::StatusCode::INVALID_ARGUMENT, "that is all");

TEST_F(SessionTest, AnswersTheActionsOfEachGroupWithWhatTheyLedTo) {
  Start([](int, ServerSide& stream) {
    Begin(stream, 1);
    v1::ActorMessage in;
    // Group 1 is answered twice before group 0: the groups do not wait for one another.
    std::vector<v1::StepBatch> newest(kGroups);
    for (int group = 0; group < kGroups; ++group) newest[group].set_group(group);
    for (const int group : {1, 1, 0, 1, 0}) {
      stream.Write(Actions(newest[group]));
      EXPECT_TRUE(stream.Read(&in));
      EXPECT_EQ(in.step().group(), static_cast<uint32_t>(group));
      EXPECT_EQ(in.step().sequence(), newest[group].sequence() + 1);
      EXPECT_EQ(CountIn<float>(in.step().reward()), static_cast<size_t>(kRows));
      newest[group] = in.step();
    }
    return kEnough;
  });
  run_.Join();
  EXPECT_THAT(std::string(run_.ended.message()), HasSubstr("that is all"));
  EXPECT_EQ(run_.program.watch.metrics.Counter("sibyl_actor_steps_total", "").Value(), 5 * kRows);
  EXPECT_EQ(run_.program.watch.metrics.Gauge("sibyl_actor_connected", "").Value(), 0);
}

TEST_F(SessionTest, ComesBackWithItsLeaseAndFreshEpisodesAfterALostStream) {
  std::vector<v1::ActorHello> hellos;
  Start([&](int number, ServerSide& stream) {
    hellos.push_back(Begin(stream, 100 + number));
    if (number < 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping");
    return kEnough;
  });
  run_.Join();
  ASSERT_EQ(hellos.size(), 3u);
  EXPECT_FALSE(hellos[0].has_lease());
  EXPECT_EQ(hellos[1].lease().token(), 100u);
  EXPECT_EQ(hellos[2].lease().token(), 101u);
}

TEST_F(SessionTest, TakesANewLeaseWhereItsOwnIsStale) {
  std::vector<v1::ActorHello> hellos;
  Start([&](int number, ServerSide& stream) {
    if (number == 1) {
      v1::ActorMessage in;
      EXPECT_TRUE(stream.Read(&in));
      hellos.push_back(in.hello());
      return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the lease of slot 0 is stale");
    }
    hellos.push_back(Begin(stream, 100 + number));
    return number == 0 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping") : kEnough;
  });
  run_.Join();
  ASSERT_EQ(hellos.size(), 3u);
  EXPECT_TRUE(hellos[1].has_lease());
  EXPECT_FALSE(hellos[2].has_lease());
}

TEST_F(SessionTest, TheLearnersReasonIsKept) {
  Start([](int, ServerSide& stream) {
    Begin(stream, 1);
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the actor's environment is not what this run trains on");
  });
  run_.Join();
  EXPECT_EQ(run_.ended.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(run_.ended.message()), HasSubstr("not what this run trains on"));
  EXPECT_EQ(learner_.streams, 1);
}

TEST_F(SessionTest, ActionsThatDoNotFitEndIt) {
  Start([](int, ServerSide& stream) {
    Begin(stream, 1);
    v1::StepBatch step;
    stream.Write(Actions(step, kRows + 1));
    v1::ActorMessage in;
    while (stream.Read(&in)) {
    }
    return grpc::Status::OK;
  });
  run_.Join();
  EXPECT_EQ(run_.ended.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionTest, WaitingForTheLearnerIsNoHangAndAStopEndsIt) {
  std::atomic<bool> waits = false;
  Start([&](int, ServerSide& stream) {
    Begin(stream, 1);
    waits = true;
    v1::ActorMessage in;
    EXPECT_FALSE(stream.Read(&in));
    return grpc::Status::OK;
  });
  ASSERT_TRUE(Eventually([&] { return waits.load(); }));
  EXPECT_TRUE(run_.program.watch.ComesBackAfter(absl::Hours(1)));
  EXPECT_EQ(run_.program.watch.Silence("playing"), 0);
  run_.Stop();
  EXPECT_EQ(run_.ended, absl::OkStatus());
}

}  // namespace
}  // namespace sibyl::actor
