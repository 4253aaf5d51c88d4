#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "common/runtime/ending.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/stop.h"
#include "common/runtime/worker.h"

namespace sibyl {
namespace {

TEST(Ending, TheFirstAskDecidesTheStatus) {
  {
    Ending ending;
    ending.Finish();
    ending.StopBySignal();
    EXPECT_EQ(ending.ExitStatusFor(absl::OkStatus()), kExitFinished);
  }
  Ending ending;
  EXPECT_FALSE(ending.requested());
  ending.StopBySignal();
  EXPECT_TRUE(ending.requested());
  ending.Finish();
  EXPECT_EQ(ending.ExitStatusFor(absl::OkStatus()), kExitStopped);
}

TEST(Ending, AStateThatCouldNotBeSavedIsAFailureWhoeverAsked) {
  Ending ending;
  ending.StopBySignal();
  EXPECT_EQ(ending.ExitStatusFor(absl::UnavailableError("no checkpoint")), kExitFailed);
  ending.Fail(absl::UnavailableError("while ending"));
  EXPECT_EQ(ending.ExitStatusFor(absl::OkStatus()), kExitFailed);
  EXPECT_EQ(ending.failure().message(), "while ending");
}

TEST(Ending, WrongFlagsHaveAStatusOfTheirOwn) {
  Ending ending;
  EXPECT_EQ(ending.ExitStatusFor(UsageError(absl::InvalidArgumentError("--config is not set"))), kExitUsage);
  // A peer's refusal is none of this process's flags.
  EXPECT_EQ(ending.ExitStatusFor(absl::InvalidArgumentError("the learner refuses")), kExitFailed);
  EXPECT_TRUE(UsageError(absl::OkStatus()).ok());
}

TEST(Worker, ReportsAnErrorWithItsName) {
  absl::Status reason;
  {
    Worker worker(
        "digger", [](const std::stop_token&) { return absl::DataLossError("a hole"); },
        [&](absl::Status status) { reason = std::move(status); });
  }
  EXPECT_EQ(reason, absl::DataLossError("digger: a hole"));
}

TEST(Worker, ReportsAnException) {
  absl::Status reason;
  {
    Worker worker(
        "digger", [](const std::stop_token&) -> absl::Status { throw std::runtime_error("deep"); },
        [&](absl::Status status) { reason = std::move(status); });
  }
  EXPECT_EQ(reason, absl::InternalError("digger: deep"));
}

TEST(Worker, IsToldToStopByItsDestructor) {
  std::atomic<bool> stopped = false;
  FakeClock clock;
  {
    Worker worker(
        "waiter",
        [&](const std::stop_token& stop) {
          stopped = WaitForStop(stop, clock, absl::InfiniteDuration());
          return absl::OkStatus();
        },
        [](absl::Status status) { FAIL() << status; });
  }
  EXPECT_TRUE(stopped);
}

TEST(WaitForStop, EndsWhenTheClockHasReachedTheLimit) {
  FakeClock clock;
  std::stop_source source;
  std::atomic<bool> ended = false;
  Worker worker(
      "waiter",
      [&](const std::stop_token&) {
        EXPECT_FALSE(WaitForStop(source.get_token(), clock, absl::Minutes(1)));
        ended = true;
        return absl::OkStatus();
      },
      [](absl::Status status) { FAIL() << status; });
  while (!ended) clock.Advance(absl::Seconds(20));
  source.request_stop();
  EXPECT_TRUE(WaitForStop(source.get_token(), clock, absl::InfiniteDuration()));
}

TEST(Clock, TheRealOneNeverGoesBackAndIsNearTheMachines) {
  const absl::Time first = Clock::Real().Now();
  EXPECT_LE(first, Clock::Real().Now());
  EXPECT_LT(absl::AbsDuration(first - absl::Now()), absl::Minutes(1));
}

class HeartbeatsTest : public testing::Test {
 protected:
  FakeClock clock_;
  Metrics metrics_;
  Heartbeats heartbeats_{clock_, metrics_};
  std::vector<bool> health_;
};

TEST_F(HeartbeatsTest, ALoopThatHangsMakesTheProcessUnhealthyUntilItIsBack) {
  heartbeats_.OnHealth([&](bool healthy) { health_.push_back(healthy); });
  const auto loop = heartbeats_.Add("training", absl::Seconds(30));
  const auto other = heartbeats_.Add("inference", absl::Seconds(60));
  clock_.Advance(absl::Seconds(30));
  heartbeats_.Check();
  EXPECT_EQ(health_, std::vector<bool>({true}));
  clock_.Advance(absl::Seconds(1));
  heartbeats_.Check();
  heartbeats_.Check();
  EXPECT_EQ(health_, std::vector<bool>({true, false}));
  EXPECT_NE(metrics_.Text().find("sibyl_loop_silence_seconds{loop=\"training\"} 31"), std::string::npos)
      << metrics_.Text();
  loop->Beat();
  heartbeats_.Check();
  EXPECT_EQ(health_, std::vector<bool>({true, false, true}));
}

TEST_F(HeartbeatsTest, ALoopThatHasEndedIsNotMissed) {
  heartbeats_.OnHealth([&](bool healthy) { health_.push_back(healthy); });
  heartbeats_.Add("training", absl::Seconds(30)).reset();
  clock_.Advance(absl::Minutes(10));
  heartbeats_.Check();
  EXPECT_EQ(health_, std::vector<bool>({true}));
}

}  // namespace
}  // namespace sibyl
