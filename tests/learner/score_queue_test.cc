#include "learner/score_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "common/runtime/worker.h"
#include "tests/process.h"

namespace sibyl::learner {
namespace {

v1::ScoreUpdate Update(uint64_t sequence, int scores) {
  v1::ScoreUpdate update;
  update.set_sequence(sequence);
  for (int i = 0; i < scores; ++i) {
    update.add_id(sequence * 1000 + i);
    update.add_score(1);
  }
  return update;
}

class ScoreQueueTest : public testing::Test {
 protected:
  // Queues updates of so many scores, numbered from 1, on a thread.
  Worker Push(ScoreQueue& queue, int count, int scores) {
    return Worker(
        "pusher",
        [this, &queue, count, scores](const std::stop_token& stop) {
          for (int i = 1; i <= count; ++i) {
            if (!queue.WaitForRoom(Update(i, scores), stop)) break;
            queue.Push(Update(i, scores));
            ++pushed_;
          }
          ended_ = true;
          return absl::OkStatus();
        },
        [](absl::Status status) { ADD_FAILURE() << status; });
  }
  double Waits() { return metrics_.Counter("sibyl_learner_score_queue_waits_total", "").Value(); }
  double Rows() { return metrics_.Gauge("sibyl_learner_score_queue_rows", "").Value(); }
  double Bytes() { return metrics_.Gauge("sibyl_learner_score_queue_bytes", "").Value(); }

  FakeClock clock_;
  Metrics metrics_;
  std::atomic<int> pushed_ = 0;
  std::atomic<bool> ended_ = false;
};

TEST_F(ScoreQueueTest, AFullOneHoldsUpTheReaderAndLosesNothing) {
  ScoreQueue queue(&clock_, &metrics_, {.rows = 12, .bytes = 1 << 20});
  Worker pusher = Push(queue, /*count=*/9, /*scores=*/3);  // 4 rows each
  uint64_t expected = 1;
  while (expected <= 9) {
    ASSERT_TRUE(Eventually([&] { return ended_ || Waits() >= static_cast<double>((expected + 2) / 3); }));
    EXPECT_LE(Rows(), 12);
    google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
    queue.TakeAll(&updates);
    for (const v1::ScoreUpdate& update : updates) EXPECT_EQ(update.sequence(), expected++);
  }
  EXPECT_EQ(Rows(), 0);
  EXPECT_EQ(Bytes(), 0);
}

TEST_F(ScoreQueueTest, BytesAreBoundedToo) {
  const size_t one = Update(1, 100).ByteSizeLong();
  ScoreQueue queue(&clock_, &metrics_, {.rows = 1'000'000, .bytes = 2 * one + 10});
  Worker pusher = Push(queue, /*count=*/3, /*scores=*/100);
  EXPECT_TRUE(Eventually([&] { return Waits() == 1; }));
  EXPECT_EQ(pushed_, 2);
  EXPECT_LE(Bytes(), static_cast<double>(2 * one + 10));
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
  queue.TakeAll(&updates);
  EXPECT_EQ(updates.size(), 2);
  EXPECT_TRUE(Eventually([&] { return pushed_ == 3; }));
}

TEST_F(ScoreQueueTest, AnUpdateAboveTheBoundPassesAlone) {
  ScoreQueue queue(&clock_, &metrics_, {.rows = 5, .bytes = 50});
  Worker pusher = Push(queue, /*count=*/1, /*scores=*/1000);
  EXPECT_TRUE(Eventually([&] { return pushed_ == 1; }));
}

TEST_F(ScoreQueueTest, AStopEndsTheWaitAndTheUpdateIsNotTaken) {
  ScoreQueue queue(&clock_, &metrics_, {.rows = 5, .bytes = 1 << 20});
  {
    Worker pusher = Push(queue, /*count=*/2, /*scores=*/3);
    EXPECT_TRUE(Eventually([&] { return Waits() == 1; }));
  }
  EXPECT_EQ(pushed_, 1);
}

TEST_F(ScoreQueueTest, TakesInPlaceOfWhatIsThere) {
  ScoreQueue queue(&clock_, &metrics_);
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
  *updates.Add() = Update(77, 1);
  queue.TakeAll(&updates);
  EXPECT_TRUE(updates.empty());
}

}  // namespace
}  // namespace sibyl::learner
