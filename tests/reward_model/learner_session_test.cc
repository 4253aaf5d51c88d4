#include "reward_model/learner_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using testing::HasSubstr;
using testing::Not;

class LearnerSessionTest : public testing::Test {
 protected:
  static v1::LearnerHello Hello(uint64_t incarnation) {
    v1::LearnerHello hello;
    hello.set_protocol_version(kProtocolVersion);
    hello.set_run_id("run");
    hello.set_goal("open doors");
    hello.set_incarnation(incarnation);
    return hello;
  }
  static v1::RewardModelProgress Known(uint64_t captions) {
    v1::RewardModelProgress progress;
    progress.set_captions_known(captions);
    return progress;
  }

  LearnerSession session_{"open doors", 42, "retrieval"};
  std::shared_ptr<FakeOutput> first_ = std::make_shared<FakeOutput>(), second_ = std::make_shared<FakeOutput>();
};

TEST_F(LearnerSessionTest, RefusesWhatDiffersAndGivesNothingAway) {
  ASSERT_EQ(session_.Check(Hello(1)), absl::OkStatus());
  session_.Connect(Hello(1), first_);
  for (const auto& change : std::vector<std::function<void(v1::LearnerHello&)>>{
           [](auto& hello) { hello.set_protocol_version(kProtocolVersion + 1); },
           [](auto& hello) { hello.set_goal("close doors"); }, [](auto& hello) { hello.set_run_id("other"); },
           [](auto& hello) { hello.clear_run_id(); }}) {
    v1::LearnerHello hello = Hello(2);
    change(hello);
    const absl::Status status = session_.Check(hello);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    for (const char* secret : {"close doors", "open doors", "other", "`run`"}) {
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr(secret)));
    }
  }
  EXPECT_TRUE(session_.IsConnected(first_.get())) << "a refusal costs the connected learner nothing";
}

TEST_F(LearnerSessionTest, TheNewestConnectionCounts) {
  EXPECT_TRUE(session_.Connect(Hello(1), first_)) << "another process than none";
  EXPECT_FALSE(session_.Connect(Hello(1), second_)) << "the same process on another stream";
  EXPECT_EQ(first_->disconnected.code(), absl::StatusCode::kUnavailable);
  session_.Disconnect(first_.get());  // the end of its stream comes late
  EXPECT_TRUE(session_.IsConnected(second_.get()));
  session_.Disconnect(second_.get());
  EXPECT_FALSE(session_.connected());
  EXPECT_FALSE(session_.IsConnected(nullptr)) << "nobody is not a learner";
  EXPECT_TRUE(session_.Connect(Hello(2), first_));
  EXPECT_EQ(session_.learner_incarnation(), 2u);
}

TEST_F(LearnerSessionTest, GoesOnWithTheRunOfItsCheckpoint) {
  session_.Restore("run", 7);
  v1::LearnerHello other = Hello(7);
  other.set_run_id("another");
  EXPECT_FALSE(session_.Check(other).ok());
  EXPECT_FALSE(session_.Connect(Hello(7), first_)) << "the process that counted last is still there";
  EXPECT_TRUE(session_.Connect(Hello(8), second_));
}

TEST_F(LearnerSessionTest, SaysHelloFirstToEachConnection) {
  session_.Connect(Hello(1), first_);
  ASSERT_EQ(first_->messages.size(), 1u);
  EXPECT_EQ(first_->messages[0].hello().incarnation(), 42u);
  EXPECT_EQ(first_->messages[0].hello().kind(), "retrieval");
}

TEST_F(LearnerSessionTest, TellsProgressThatHasChangedAtMostOnceASecond) {
  absl::Time now = absl::UnixEpoch();
  session_.SendProgress(Known(1), now);  // nobody is there
  session_.Connect(Hello(1), first_);
  session_.SendProgress(Known(1), now);
  EXPECT_EQ(first_->messages.size(), 2u);
  session_.SendProgress(Known(2), now + absl::Milliseconds(999));
  EXPECT_EQ(first_->messages.size(), 2u);
  now += absl::Seconds(1);
  session_.SendProgress(Known(2), now);
  EXPECT_EQ(first_->messages.back().progress().captions_known(), 2u);
  session_.SendProgress(Known(2), now + absl::Hours(1));
  EXPECT_EQ(first_->messages.size(), 3u) << "nothing has changed";
  // A learner that has just come has heard nothing.
  session_.Connect(Hello(1), second_);
  session_.SendProgress(Known(2), now);
  EXPECT_EQ(second_->messages.back().progress().captions_known(), 2u);
  session_.Connect(Hello(1), first_);
  session_.SendProgress({}, now);
  EXPECT_TRUE(first_->messages.back().has_progress()) << "that nothing is known yet is news too";
}

TEST_F(LearnerSessionTest, ALearnerThatDoesNotReadIsGone) {
  session_.Connect(Hello(1), first_);
  first_->reading = false;
  session_.Send({});
  EXPECT_FALSE(session_.connected());
  session_.Send({});  // says nothing to nobody
}

TEST_F(LearnerSessionTest, ADrainingOneSendsLearnersAway) {
  session_.Connect(Hello(1), first_);
  session_.Drain();
  EXPECT_EQ(first_->disconnected.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(session_.connected());
  EXPECT_EQ(session_.Check(Hello(1)).code(), absl::StatusCode::kUnavailable);
}

TEST_F(LearnerSessionTest, GetsNoUpdatesUntilItHasCaughtUp) {
  EXPECT_FALSE(session_.takes_updates());
  session_.Connect(Hello(1), first_);
  session_.SetCatchingUp(true);
  EXPECT_FALSE(session_.takes_updates());
  session_.SetCatchingUp(false);
  EXPECT_TRUE(session_.takes_updates());
}

}  // namespace
}  // namespace sibyl::reward_model
