#include "learner/experience/unroll_pool.h"

#include <gtest/gtest.h>

#include <thread>

namespace sibyl::learner {
namespace {

TEST(UnrollPool, GivesAllThatIsAskedForOrNothing) {
  UnrollPool pool(3, 4, 8, 2);
  std::vector<int> taken, more;
  UnrollPool::Claim claim = 0;
  EXPECT_TRUE(pool.Take(2, &claim, &taken));
  EXPECT_FALSE(pool.Take(2, &claim, &more));
  EXPECT_EQ(pool.free(), 1);
  pool.Release(taken);
  EXPECT_TRUE(pool.Take(3, &claim, &more));
}

TEST(UnrollPool, ServesWhoAskedFirst) {
  UnrollPool pool(3, 4, 8, 2);
  std::vector<int> taken, many, few;
  UnrollPool::Claim first = 0, second = 0;
  ASSERT_TRUE(pool.Take(2, &first, &taken));
  EXPECT_FALSE(pool.Take(3, &first, &many));
  EXPECT_FALSE(pool.Take(1, &second, &few));  // there is one, but it would keep the other waiting
  EXPECT_TRUE(pool.Take(0, &second, &few));
  pool.Release(taken);
  EXPECT_FALSE(pool.Take(1, &second, &few));
  EXPECT_TRUE(pool.Take(3, &first, &many));
  pool.Release(many);
  EXPECT_TRUE(pool.Take(1, &second, &few));
  EXPECT_FALSE(pool.Take(3, &first, &many));
  EXPECT_FALSE(pool.Take(1, &second, &taken));
  pool.Withdraw(&first);
  EXPECT_TRUE(pool.Take(1, &second, &taken));
}

TEST(UnrollPool, HandsOutTheOldestFinishedFirst) {
  UnrollPool pool(4, 4, 8, 2);
  std::vector<int> taken, popped;
  UnrollPool::Claim claim = 0;
  ASSERT_TRUE(pool.Take(4, &claim, &taken));
  pool.Finish({taken[2]});
  pool.Finish({taken[0], taken[1]});
  ASSERT_TRUE(pool.PopFinished(2, &popped));
  EXPECT_EQ(popped, (std::vector<int>{taken[2], taken[0]}));
  EXPECT_EQ(pool.finished(), 1);
}

TEST(UnrollPool, LetsAWaiterGoWhenItCloses) {
  UnrollPool pool(4, 4, 8, 2);
  std::vector<int> popped;
  std::thread waiter([&] { EXPECT_FALSE(pool.PopFinished(1, &popped)); });
  pool.Close();
  waiter.join();
}

TEST(UnrollPool, WakesAWaiterWhenEnoughAreFinished) {
  UnrollPool pool(4, 4, 8, 2);
  std::vector<int> taken, popped;
  UnrollPool::Claim claim = 0;
  ASSERT_TRUE(pool.Take(2, &claim, &taken));
  std::thread waiter([&] { EXPECT_TRUE(pool.PopFinished(2, &popped)); });
  pool.Finish({taken[0]});
  pool.Finish({taken[1]});
  waiter.join();
  EXPECT_EQ(popped, taken);
}

}  // namespace
}  // namespace sibyl::learner
