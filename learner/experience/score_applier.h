#pragma once

#include <deque>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/worker.h"
#include "learner/experience/caption_table.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::learner {

// Applies score updates to a caption table on a thread of its own, "scores", in the order in which they came. Ranks
// above 0 get their updates from the training thread, which does not wait for the rows of a snapshot.
class ScoreApplier {
 public:
  // Rows of updates that wait, at most.
  static constexpr size_t kMostRows = 32'000'000;

  // All pointers outlive this; nobody else calls Apply of `captions`.
  ScoreApplier(CaptionTable* captions, Clock* clock, Heartbeats* heartbeats, size_t most_rows = kMostRows);

  // Takes the updates; `step` is the environment step at which they came. Never waits for the table. An error of an
  // earlier update that could not be applied (the rank has other scores than rank 0 from then on), or
  // ResourceExhausted: too many rows wait.
  absl::Status Add(google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates, uint64_t step);

  // Rows that wait. Any thread.
  size_t waiting_rows() const;

 private:
  struct Job {
    google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
    uint64_t step = 0;
    size_t rows = 0;
  };
  absl::Status Run(const std::stop_token& stop);

  CaptionTable* const captions_;
  const size_t most_rows_;
  Clock* const clock_;
  const std::unique_ptr<Heartbeat> heartbeat_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_rows_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  Worker worker_;
};

}  // namespace sibyl::learner
