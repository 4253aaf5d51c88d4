#include "learner/serving/batching_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/process.h"

namespace sibyl::learner {
namespace {

using testing::ElementsAre;

constexpr absl::Duration kLimit = absl::Milliseconds(2);

class BatchingQueueTest : public testing::Test {
 protected:
  FakeClock clock_;
  BatchingQueue<int> queue_{3, &clock_};
  std::vector<int> items_;
};

TEST_F(BatchingQueueTest, HandsOutAllItemsOldestFirstOnceTheMinimumIsThere) {
  queue_.Push(1);
  queue_.Push(2);
  queue_.Push(3);
  ASSERT_TRUE(queue_.Pop(2, kLimit, &items_));
  EXPECT_THAT(items_, ElementsAre(1, 2, 3));
}

TEST_F(BatchingQueueTest, WaitsForTheMinimum) {
  std::atomic<bool> popped = false;
  std::thread reader([&] {
    ASSERT_TRUE(queue_.Pop(2, kLimit, &items_));
    popped = true;
  });
  queue_.Push(1);
  EXPECT_FALSE(popped);  // the clock stands still, so only another item can end the wait
  queue_.Push(2);
  reader.join();
  EXPECT_THAT(items_, ElementsAre(1, 2));
}

TEST_F(BatchingQueueTest, GivesLessThanTheMinimumWhenTheOldestItemHasWaitedForTheLimit) {
  queue_.Push(1);
  std::thread reader([&] { ASSERT_TRUE(queue_.Pop(2, kLimit, &items_)); });
  clock_.Advance(kLimit);
  reader.join();
  EXPECT_THAT(items_, ElementsAre(1));
}

TEST_F(BatchingQueueTest, TheLimitBeginsWithTheOldestItemAndNotWithTheWait) {
  queue_.Push(1);
  clock_.Advance(kLimit);
  ASSERT_TRUE(queue_.Pop(2, kLimit, &items_));  // would wait for ever otherwise
  EXPECT_THAT(items_, ElementsAre(1));
}

TEST_F(BatchingQueueTest, AnEmptyQueueIsWaitedForBeyondTheLimit) {
  std::atomic<bool> returned = false;
  std::thread reader([&] {
    ASSERT_TRUE(queue_.Pop(2, kLimit, &items_));
    returned = true;
  });
  for (int i = 0; i < 100; ++i) clock_.Advance(kLimit);
  EXPECT_FALSE(returned);
  queue_.Push(1);
  EXPECT_TRUE(Eventually([&] {
    clock_.Advance(kLimit);
    return returned.load();
  }));
  reader.join();
  EXPECT_THAT(items_, ElementsAre(1));
}

TEST_F(BatchingQueueTest, AMinimumOfNothingNeverWaits) {
  ASSERT_TRUE(queue_.Pop(0, kLimit, &items_));
  EXPECT_TRUE(items_.empty());
}

TEST_F(BatchingQueueTest, RefusesWhatDoesNotFit) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue_.Push(i));
  EXPECT_FALSE(queue_.Push(3));
  ASSERT_TRUE(queue_.Pop(1, kLimit, &items_));
  EXPECT_TRUE(queue_.Push(3));
}

TEST_F(BatchingQueueTest, ClosingEndsTheWaitAndRefusesMore) {
  std::thread reader([&] { EXPECT_FALSE(queue_.Pop(1, kLimit, &items_)); });
  queue_.Close();
  reader.join();
  EXPECT_FALSE(queue_.Push(1));
  EXPECT_FALSE(queue_.Pop(0, kLimit, &items_));
}

TEST_F(BatchingQueueTest, NothingIsLostOrDoubledBetweenManyWritersAndTheReader) {
  BatchingQueue<int> queue(1000, &Clock::Real());
  constexpr int kWriters = 4, kEach = 2000;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      for (int i = 0; i < kEach; ++i) {
        while (!queue.Push(writer * kEach + i)) std::this_thread::yield();
      }
    });
  }
  while (items_.size() < size_t{kWriters} * kEach) ASSERT_TRUE(queue.Pop(7, kLimit, &items_));
  for (std::thread& writer : writers) writer.join();
  std::vector<int> next(kWriters);
  for (int item : items_) EXPECT_EQ(item % kEach, next[item / kEach]++);
}

TEST(BatchingQueue, AnEmptyQueueIsWaitedForNoLongerThanItsLimit) {
  FakeClock clock;
  BatchingQueue<int> queue(8, &clock);
  std::atomic<bool> ended = false;
  std::vector<int> items;
  std::thread reader([&] {
    EXPECT_TRUE(queue.Pop(2, absl::Seconds(1), &items, /*empty_limit=*/absl::Seconds(5)));
    ended = true;
  });
  while (!ended) clock.Advance(absl::Milliseconds(100));
  reader.join();
  EXPECT_TRUE(items.empty());
}

}  // namespace
}  // namespace sibyl::learner
