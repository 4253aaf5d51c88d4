#include "actor/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "common/protocol.h"
#include "tests/actor/test_program.h"

namespace sibyl::actor {
namespace {

class ConnectionTest : public testing::Test {
 protected:
  ~ConnectionTest() override { Stop(); }

  // Stays connected by `play`, on a thread.
  void Start(std::function<StreamEnd(int attempt, grpc::ClientContext&)> play) {
    thread_ = std::thread([this, play = std::move(play)] {
      ended_ = StayConnected("127.0.0.1:1", program_.program, metrics_, state_,
                             [&](const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                                 Heartbeat& heartbeat) {
                               EXPECT_NE(channel, nullptr);
                               heartbeat.Beat();
                               const StreamEnd end = play(attempts_, context);
                               ++attempts_;
                               return end;
                             });
    });
  }
  void Stop() {
    program_.ending.StopBySignal();
    if (thread_.joinable()) thread_.join();
  }
  // As soon as the actor waits, it is let wait no longer.
  bool AttemptsReach(int attempts) {
    return Eventually([&] {
      if (attempts_ >= attempts) return true;
      program_.watch.clock.Advance(absl::Milliseconds(100));
      return false;
    });
  }

  TestProgram program_;
  ActorMetrics metrics_{program_.watch.metrics};
  ActorState state_;
  std::atomic<int> attempts_ = 0;
  absl::Status ended_ = absl::UnknownError("it runs");
  std::thread thread_;
};

StreamEnd LostTo(absl::Status learner, bool played = false) { return {Lost(), std::move(learner), played}; }

TEST_F(ConnectionTest, TriesAgainAfterAWaitThatGrows) {
  // The fake time of each attempt.
  std::vector<absl::Time> at;
  Mutex mutex;
  Start([&](int, grpc::ClientContext&) {
    MutexLock lock(mutex);
    at.push_back(program_.watch.clock.Now());
    return LostTo(absl::UnavailableError("nobody there"));
  });
  ASSERT_TRUE(Eventually([&] { return attempts_ == 1; }));
  EXPECT_EQ(metrics_.connects.Value(), 1) << "it waits for the clock";
  ASSERT_TRUE(AttemptsReach(30));
  Stop();
  EXPECT_EQ(ended_, absl::OkStatus());
  absl::Duration longest;
  for (size_t i = 1; i < at.size(); ++i) {
    EXPECT_GE(at[i] - at[i - 1], absl::Milliseconds(50)) << i;
    longest = std::max(longest, at[i] - at[i - 1]);
  }
  EXPECT_GT(longest, absl::Milliseconds(300)) << "the first wait is 100 ms at most";
}

TEST_F(ConnectionTest, AStopEndsTheWaitAndAStreamThatIsOpen) {
  Start([](int, grpc::ClientContext&) { return LostTo(absl::UnavailableError("nobody there")); });
  ASSERT_TRUE(Eventually([&] { return attempts_ == 1; }));
  Stop();  // while it waits; no time passes
  EXPECT_EQ(ended_, absl::OkStatus());
  EXPECT_LE(attempts_, 2);
}

TEST_F(ConnectionTest, AnErrorOfItsOwnIsFinal) {
  Start([](int, grpc::ClientContext&) {
    return StreamEnd{absl::InternalError("the game failed"), absl::CancelledError(), true};
  });
  thread_.join();
  EXPECT_EQ(ended_, absl::InternalError("the game failed"));
  EXPECT_EQ(attempts_, 1);
}

TEST_F(ConnectionTest, ARefusalThatAnotherTryWouldMeetIsFinal) {
  for (const absl::Status& refusal :
       {absl::InvalidArgumentError("not finite: reward 1 is nan"), absl::FailedPreconditionError("speaks protocol 2")}) {
    attempts_ = 0;
    Start([&](int, grpc::ClientContext&) { return LostTo(refusal); });
    thread_.join();
    EXPECT_EQ(ended_, refusal);
    EXPECT_EQ(attempts_, 1);
  }
}

TEST_F(ConnectionTest, AStaleLeaseIsGivenUpForANewOneAtOnce) {
  state_.lease.emplace().set_token(5);
  std::vector<bool> offered;
  Start([&](int attempt, grpc::ClientContext&) {
    offered.push_back(Hello(state_).has_lease());
    if (attempt == 0) return LostTo(absl::FailedPreconditionError("the lease of slot 0 is stale"));
    return LostTo(absl::InvalidArgumentError("that is all"));
  });
  thread_.join();  // without a wait: no time passes
  EXPECT_THAT(offered, testing::ElementsAre(true, false));
}

TEST_F(ConnectionTest, AWelcomedActorThatIsRefusedDoesNotTryForEver) {
  state_.lease.emplace().set_token(5);
  Start([&](int, grpc::ClientContext&) {
    state_.welcomed = true;
    return LostTo(absl::FailedPreconditionError("the actor's environment is not what this run trains on"));
  });
  thread_.join();
  EXPECT_EQ(ended_.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(attempts_, 1);
}

TEST_F(ConnectionTest, AFullRunIsTriedAgain) {
  Start([](int attempt, grpc::ClientContext&) {
    return LostTo(attempt < 3 ? absl::ResourceExhaustedError("all 2 actor slots are taken")
                              : absl::InvalidArgumentError("that is all"));
  });
  ASSERT_TRUE(AttemptsReach(4));
  thread_.join();
  EXPECT_EQ(ended_.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ConnectionTest, BeatsWhileItTriesAndIsSilentWhereItHangs) {
  Gate gate;
  Start([&](int, grpc::ClientContext&) {
    gate.Wait();
    return LostTo(absl::UnavailableError("nobody there"));
  });
  ExpectSilenceWhileIn(gate, program_.watch, "playing");
}

TEST_F(ConnectionTest, KeepsItsEnvironmentsAsLongAsTheLearnerAsksForTheSame) {
  v1::ActorWelcome welcome;
  welcome.set_protocol_version(kProtocolVersion);
  welcome.mutable_lease()->set_token(3);
  welcome.set_environment("debug/Alignment");
  welcome.set_environments(2);
  welcome.set_groups(1);
  ASSERT_EQ(Accept(welcome, &state_), absl::OkStatus());
  ASSERT_EQ(state_.environments.size(), 1u);
  EXPECT_EQ(state_.environments[0]->rows(), 2);
  EXPECT_TRUE(state_.welcomed);
  EXPECT_EQ(state_.lease->token(), 3u);
  const EnvironmentGroup* first = state_.environments[0].get();
  welcome.mutable_lease()->set_token(4);
  ASSERT_EQ(Accept(welcome, &state_), absl::OkStatus());
  EXPECT_EQ(state_.environments[0].get(), first);
  EXPECT_EQ(state_.lease->token(), 4u);
  welcome.set_environments(3);
  ASSERT_EQ(Accept(welcome, &state_), absl::OkStatus());
  EXPECT_EQ(state_.environments[0]->rows(), 3);
  welcome.set_groups(3);
  ASSERT_EQ(Accept(welcome, &state_), absl::OkStatus());
  EXPECT_EQ(state_.environments.size(), 3u);
  welcome.set_environment("debug/NoSuch");
  EXPECT_FALSE(Accept(welcome, &state_).ok());
  welcome.set_protocol_version(kProtocolVersion + 1);
  EXPECT_EQ(Accept(welcome, &state_).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sibyl::actor
