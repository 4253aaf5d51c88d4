#include "learner/experience/unroll_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace sibyl::learner {
namespace {

using testing::ElementsAre;

constexpr UnrollShape kShape{.length = 4, .observation_bytes = 8, .state_size = 2};

class UnrollPoolTest : public testing::Test {
 protected:
  // Asks for `count`; what is granted later goes to granted_[owner].
  Unrolls Request(uint64_t owner, int count) {
    return pool_.Request(owner, count, [this, owner](Unrolls unrolls) {
      order_.push_back(owner);
      for (auto& unroll : unrolls) granted_.push_back(std::move(unroll));
    });
  }

  UnrollPool pool_{kShape, 3, &Clock::Real()};
  std::vector<uint64_t> order_;  // of owners that were granted what they waited for
  Unrolls granted_;
};

TEST_F(UnrollPoolTest, GivesAllThatIsAskedForOrNothing) {
  Unrolls taken = Request(1, 2);
  EXPECT_EQ(taken.size(), 2u);
  EXPECT_TRUE(Request(2, 2).empty());
  EXPECT_EQ(pool_.free(), 1);
  EXPECT_THAT(order_, ElementsAre());
  pool_.Release(std::move(taken));
  EXPECT_THAT(order_, ElementsAre(2));
  EXPECT_EQ(granted_.size(), 2u);
}

TEST_F(UnrollPoolTest, ServesWhoAskedFirst) {
  Unrolls taken = Request(1, 2);
  EXPECT_TRUE(Request(2, 3).empty());
  EXPECT_TRUE(Request(3, 1).empty());  // there is one, but it would keep the other waiting
  pool_.Release(std::move(taken));
  EXPECT_THAT(order_, ElementsAre(2));
  pool_.Release(std::move(granted_));
  EXPECT_THAT(order_, ElementsAre(2, 3));
}

TEST_F(UnrollPoolTest, AWithdrawnRequestKeepsNobodyWaiting) {
  const Unrolls taken = Request(1, 2);
  EXPECT_TRUE(Request(2, 3).empty());
  EXPECT_TRUE(Request(3, 1).empty());
  pool_.Withdraw(2);
  EXPECT_THAT(order_, ElementsAre(3));
}

TEST_F(UnrollPoolTest, HandsOutTheOldestFinishedFirst) {
  Unrolls taken = Request(1, 3), late, early, popped;
  std::vector<Unroll*> expected = {taken[2].get(), taken[0].get()};
  late.push_back(std::move(taken[0]));
  late.push_back(std::move(taken[1]));
  early.push_back(std::move(taken[2]));
  pool_.Finish(std::move(early));
  pool_.Finish(std::move(late));
  ASSERT_TRUE(pool_.PopFinished(2, &popped));
  EXPECT_EQ(popped[0].get(), expected[0]);
  EXPECT_EQ(popped[1].get(), expected[1]);
  EXPECT_EQ(pool_.finished(), 1);
}

TEST_F(UnrollPoolTest, TakesMemoryWhenItIsNeededAndGivesItBackWhenActorsLeave) {
  EXPECT_EQ(pool_.bytes(), 0u);
  EXPECT_EQ(pool_.free(), 3);
  Unrolls few = Request(1, 2);
  EXPECT_EQ(pool_.bytes(), 2 * kShape.Bytes());
  EXPECT_TRUE(Request(2, 5).empty());
  pool_.SetCapacity(10);  // actors have come
  EXPECT_THAT(order_, ElementsAre(2));
  EXPECT_EQ(pool_.bytes(), 7 * kShape.Bytes());
  pool_.SetCapacity(2);  // and are gone again; what they held is released later
  EXPECT_EQ(pool_.free(), 0);
  pool_.Release(std::move(granted_));
  EXPECT_EQ(pool_.bytes(), 2 * kShape.Bytes());
  EXPECT_EQ(pool_.free(), 0);
  pool_.Release(std::move(few));
  EXPECT_EQ(pool_.free(), 2);
  pool_.SetCapacity(0);
  EXPECT_EQ(pool_.bytes(), 0u);
}

TEST_F(UnrollPoolTest, AReleasedUnrollHasNoFinalObservations) {
  Unrolls taken = Request(1, 1);
  taken[0]->finals.push_back({0, "last"});
  Unroll* released = taken[0].get();
  pool_.Release(std::move(taken));
  taken = Request(1, 1);
  ASSERT_EQ(taken[0].get(), released);
  EXPECT_TRUE(taken[0]->finals.empty());
}

TEST_F(UnrollPoolTest, LetsAWaiterGoWhenItCloses) {
  Unrolls popped;
  std::thread waiter([&] { EXPECT_FALSE(pool_.PopFinished(1, &popped)); });
  pool_.Close();
  waiter.join();
}

TEST_F(UnrollPoolTest, GrantsNothingOnceItIsClosed) {
  Unrolls taken = Request(1, 3);
  EXPECT_TRUE(Request(2, 1).empty());
  pool_.Close();
  pool_.Release(std::move(taken));
  EXPECT_THAT(order_, ElementsAre());
  EXPECT_TRUE(Request(3, 1).empty());
}

TEST_F(UnrollPoolTest, WakesAWaiterWhenEnoughAreFinished) {
  Unrolls taken = Request(1, 2), one, other, popped;
  const std::vector<Unroll*> expected = {taken[0].get(), taken[1].get()};
  one.push_back(std::move(taken[0]));
  other.push_back(std::move(taken[1]));
  std::thread waiter([&] { EXPECT_TRUE(pool_.PopFinished(2, &popped)); });
  pool_.Finish(std::move(one));
  pool_.Finish(std::move(other));
  waiter.join();
  EXPECT_EQ(popped[0].get(), expected[0]);
  EXPECT_EQ(popped[1].get(), expected[1]);
}

TEST(UnrollPool, StopsWaitingForFinishedUnrollsAtItsLimit) {
  FakeClock clock;
  UnrollPool pool(kShape, 3, &clock);
  Unrolls popped;
  std::atomic<bool> returned = false;
  std::thread waiter([&] {
    EXPECT_FALSE(pool.PopFinishedWithin(absl::Seconds(5), 1, &popped));
    returned = true;
  });
  while (!returned) clock.Advance(absl::Seconds(1));
  waiter.join();
}

}  // namespace
}  // namespace sibyl::learner
