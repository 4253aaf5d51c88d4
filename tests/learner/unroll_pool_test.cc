#include "learner/unroll_pool.h"

#include <gtest/gtest.h>

#include <thread>

namespace sibyl::learner {
namespace {

TEST(UnrollPool, GivesAllThatIsAskedForOrNothing) {
  UnrollPool pool(3, 4, 8, 2);
  std::vector<int> taken, more;
  EXPECT_TRUE(pool.Take(2, &taken));
  EXPECT_FALSE(pool.Take(2, &more));
  EXPECT_EQ(pool.free(), 1);
  pool.Release(taken);
  EXPECT_TRUE(pool.Take(3, &more));
}

TEST(UnrollPool, HandsOutTheOldestFinishedFirst) {
  UnrollPool pool(4, 4, 8, 2);
  std::vector<int> taken, popped;
  ASSERT_TRUE(pool.Take(4, &taken));
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
  ASSERT_TRUE(pool.Take(2, &taken));
  std::thread waiter([&] { EXPECT_TRUE(pool.PopFinished(2, &popped)); });
  pool.Finish({taken[0]});
  pool.Finish({taken[1]});
  waiter.join();
  EXPECT_EQ(popped, taken);
}

}  // namespace
}  // namespace sibyl::learner
