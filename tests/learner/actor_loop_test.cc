#include "learner/serving/actor_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/action_spec.h"
#include "common/tensor_spec.h"
#include "tests/learner/books.h"

namespace sibyl::learner {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Sink = RecordingSink<ActorSink>;
struct TestActor : ServedActor<ActorSink> {};

v1::EnvironmentSpec Spec() {
  v1::EnvironmentSpec spec;
  *spec.add_observation() = MakeTensorSpec("x", v1::DTYPE_FLOAT32, {});
  *spec.mutable_action() = OneOf({"wait"});
  return spec;
}

v1::SlotLease Lease(uint32_t slot, uint64_t token) {
  v1::SlotLease lease;
  lease.set_slot(slot);
  lease.set_token(token);
  return lease;
}

// Messages are numbers. 0 hangs in the gate, a positive one asks for so many unrolls, -1 breaks the contract, -2 is a
// failure of the learner's own.
class TestLoop : public ActorLoop<TestActor, int> {
 public:
  explicit TestLoop(TestBooks& books)
      : ActorLoop("test", books.books(), &books.watch.clock, &books.watch.heartbeats,
                  books.metrics.Counter("sibyl_busy_seconds_total", ""),
                  books.metrics.Counter("sibyl_starved_seconds_total", "")) {}

  // "SLOT MESSAGE", "SLOT got COUNT" and "SLOT gone".
  std::vector<std::string> heard() {
    MutexLock lock(mutex_);
    return heard_;
  }
  Gate gate;

 private:
  std::unique_ptr<TestActor> MakeActor(const v1::SlotLease& lease, std::shared_ptr<ActorSink> sink) override {
    return std::unique_ptr<TestActor>(
        new TestActor{{lease,
                       std::move(sink),
                       {spec_, &feedback_, /*told_by_actor=*/false, books_, lease.slot(), /*groups=*/1, /*rows=*/1}}});
  }
  absl::Status OnMessage(TestActor& actor, const int& message) override {
    Hear(actor, absl::StrCat(message));
    if (message == 0) gate.Wait();
    if (message > 0) {
      Unrolls unrolls = RequestUnrolls(actor, 0, message);
      if (!unrolls.empty()) OnUnrolls(actor, 0, std::move(unrolls));
    }
    if (message == -2) failure_ = absl::InternalError("the policy's output is nan");
    return message == -1 ? absl::InvalidArgumentError("out of turn") : absl::OkStatus();
  }
  void OnUnrolls(TestActor& actor, uint32_t, Unrolls unrolls) override {
    Hear(actor, absl::StrCat("got ", unrolls.size()));
    books_.unrolls->Finish(std::move(unrolls));
  }
  void OnForget(TestActor& actor) override { Hear(actor, "gone"); }
  absl::Status AfterEvents() override { return failure_; }

  void Hear(const TestActor& actor, const std::string& what) {
    MutexLock lock(mutex_);
    heard_.push_back(absl::StrCat(actor.lease.slot(), " ", what));
  }

  const v1::EnvironmentSpec spec_ = Spec();
  const Feedback feedback_{v1::Experiment(), spec_};  // the policy is told nothing
  absl::Status failure_;
  Mutex mutex_;
  std::vector<std::string> heard_ ABSL_GUARDED_BY(mutex_);
};

class ActorLoopTest : public testing::Test {
 protected:
  ActorLoopTest() : thread_([this] { ended_ = loop_.Run(); }) {}
  ~ActorLoopTest() override { Stop(); }
  void Stop() {
    loop_.gate.Open();
    loop_.Close();
    if (thread_.joinable()) thread_.join();
  }
  std::shared_ptr<Sink> Attach(const v1::SlotLease& lease) {
    auto sink = std::make_shared<Sink>();
    loop_.Attach(lease, sink);
    return sink;
  }
  bool Hears(const std::vector<std::string>& what) {
    return Eventually([&] { return loop_.heard() == what; });
  }

  TestBooks books_{{.length = 2, .observation_bytes = 4, .action_bytes = sizeof(uint16_t)}, 3};
  TestLoop loop_{books_};
  absl::Status ended_ = absl::UnknownError("it runs");
  std::thread thread_;
};

TEST_F(ActorLoopTest, BeatsWhileNothingComesAndIsSilentWhileItHangs) {
  EXPECT_TRUE(Eventually([&] { return books_.watch.Silence("test") == 0; }));
  EXPECT_TRUE(books_.watch.ComesBackAfter(absl::Minutes(10)));
  Attach(Lease(0, 1));
  EXPECT_TRUE(loop_.Submit(Lease(0, 1), 0));
  ExpectSilenceWhileIn(loop_.gate, books_.watch, "test");
  Stop();
  EXPECT_EQ(ended_, absl::OkStatus());
  books_.watch.clock.Advance(absl::Minutes(10));
  EXPECT_TRUE(books_.watch.Healthy()) << "a loop that has ended is not missed";
}

TEST_F(ActorLoopTest, WhatComesUnderAStaleLeaseIsDropped) {
  const auto older = Attach(Lease(4, 1));
  loop_.Submit(Lease(4, 1), -3);
  const auto newer = Attach(Lease(4, 2));
  loop_.Submit(Lease(4, 1), -1);  // would be refused
  loop_.Detach(Lease(4, 1));      // the older stream's end comes late
  loop_.Submit(Lease(5, 1), -4);  // a slot that nobody holds
  loop_.Submit(Lease(4, 2), -5);
  EXPECT_TRUE(Hears({"4 -3", "4 gone", "4 -5"}));
  EXPECT_EQ(older->refused(), absl::OkStatus());
  EXPECT_EQ(newer->refused(), absl::OkStatus());
}

TEST_F(ActorLoopTest, AnActorThatBreaksTheContractIsRefusedAndForgottenAlone) {
  const auto bad = Attach(Lease(0, 1)), good = Attach(Lease(1, 1));
  loop_.Submit(Lease(0, 1), -1);
  loop_.Submit(Lease(0, 1), -3);
  loop_.Submit(Lease(1, 1), -3);
  EXPECT_TRUE(Hears({"0 -1", "0 gone", "1 -3"}));
  EXPECT_EQ(bad->refused(), absl::InvalidArgumentError("out of turn"));
  EXPECT_EQ(good->refused(), absl::OkStatus());
}

TEST_F(ActorLoopTest, UnrollsThatAreNotFreeComeLater) {
  Attach(Lease(0, 1));
  loop_.Submit(Lease(0, 1), 2);
  loop_.Submit(Lease(0, 1), 3);
  EXPECT_TRUE(Hears({"0 2", "0 got 2", "0 3"}));
  books_.unrolls.Release(books_.Finished(2));
  EXPECT_TRUE(Hears({"0 2", "0 got 2", "0 3", "0 got 3"}));
}

TEST_F(ActorLoopTest, AnActorThatLeavesWaitsForNoUnrollsAndThoseOnTheirWayGoBack) {
  Attach(Lease(0, 1));
  loop_.Submit(Lease(0, 1), 3);
  loop_.Submit(Lease(0, 1), 3);  // waits
  EXPECT_TRUE(Hears({"0 3", "0 got 3", "0 3"}));
  // Its unrolls are granted while the loop is about to forget it.
  Attach(Lease(1, 1));
  loop_.Submit(Lease(1, 1), 0);
  ASSERT_TRUE(Eventually([&] { return loop_.gate.reached(); }));
  loop_.Detach(Lease(0, 1));
  books_.unrolls.Release(books_.Finished(3));
  EXPECT_EQ(books_.unrolls.free(), 0) << "they are on their way";
  loop_.gate.Open();
  EXPECT_TRUE(Hears({"0 3", "0 got 3", "0 3", "1 0", "0 gone"}));
  EXPECT_TRUE(Eventually([&] { return books_.unrolls.free() == 3; }));
  // An actor that leaves while it waits is not served at all.
  loop_.Submit(Lease(1, 1), 3);
  loop_.Submit(Lease(1, 1), 3);
  loop_.Detach(Lease(1, 1));
  EXPECT_TRUE(Hears({"0 3", "0 got 3", "0 3", "1 0", "0 gone", "1 3", "1 got 3", "1 3", "1 gone"}));
  books_.unrolls.Release(books_.Finished(3));
  EXPECT_EQ(books_.unrolls.free(), 3);
}

TEST_F(ActorLoopTest, AFailureOfItsOwnEndsIt) {
  Attach(Lease(0, 1));
  loop_.Submit(Lease(0, 1), -2);
  thread_.join();
  EXPECT_EQ(ended_, absl::InternalError("the policy's output is nan"));
}

TEST_F(ActorLoopTest, TakesNothingAfterItIsClosed) {
  Stop();
  EXPECT_FALSE(loop_.Submit(Lease(0, 1), 1));
  EXPECT_EQ(ended_, absl::OkStatus());
}

TEST_F(ActorLoopTest, CountsTheTimeThatItWaitsForUnrolls) {
  Attach(Lease(0, 1));
  loop_.Submit(Lease(0, 1), 3);
  loop_.Submit(Lease(0, 1), 1);
  EXPECT_TRUE(Hears({"0 3", "0 got 3", "0 1"}));
  prometheus::Counter& starved = books_.metrics.Counter("sibyl_starved_seconds_total", "");
  EXPECT_TRUE(Eventually([&] {
    books_.watch.clock.Advance(absl::Seconds(1));
    return starved.Value() >= 3;
  }));
  EXPECT_EQ(loop_.heard().size(), 3u);
}

}  // namespace
}  // namespace sibyl::learner
