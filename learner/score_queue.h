#pragma once

#include <cstddef>
#include <stop_token>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::learner {

// The reward model's updates on rank 0, until the training thread takes them along to the other ranks, about once a
// second. None may be lost: the ranks would train on other scores than rank 0. So a full queue holds up the thread that
// reads from the reward model, which then reads on later.
//
// One thread pushes; any thread takes.
class ScoreQueue {
 public:
  // An empty queue takes any update.
  struct Bounds {
    size_t rows = 4'000'000;        // scores and removals, and one for each update
    size_t bytes = size_t{64} << 20;  // as the updates are sent
  };

  // The pointers outlive this.
  ScoreQueue(Clock* clock, Metrics* metrics) : ScoreQueue(clock, metrics, Bounds()) {}
  ScoreQueue(Clock* clock, Metrics* metrics, Bounds bounds);

  // Waits until there is room for the update. False: the stop was requested first.
  bool WaitForRoom(const v1::ScoreUpdate& update, const std::stop_token& stop);
  // Queues an update that WaitForRoom has found room for.
  void Push(const v1::ScoreUpdate& update);

  // Moves all updates to `updates`, oldest first, in place of what is there.
  void TakeAll(google::protobuf::RepeatedPtrField<v1::ScoreUpdate>* updates);

 private:
  bool HasRoom(const v1::ScoreUpdate& update) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Bounds bounds_;
  Clock* const clock_;
  prometheus::Gauge& rows_gauge_;
  prometheus::Gauge& bytes_gauge_;
  prometheus::Counter& waits_;
  Mutex mutex_;
  CondVar taken_;
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates_ ABSL_GUARDED_BY(mutex_);
  size_t rows_ ABSL_GUARDED_BY(mutex_) = 0, bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sibyl::learner
