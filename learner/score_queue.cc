#include "learner/score_queue.h"

#include "common/runtime/stop.h"

namespace sibyl::learner {
namespace {

size_t Rows(const v1::ScoreUpdate& update) {
  return 1 + static_cast<size_t>(update.id_size()) + static_cast<size_t>(update.removed_size());
}

}  // namespace

ScoreQueue::ScoreQueue(Clock* clock, Metrics* metrics, Bounds bounds)
    : bounds_(bounds),
      clock_(clock),
      rows_gauge_(metrics->Gauge("sibyl_learner_score_queue_rows",
                                 "Scores and removals that wait to be taken to the other ranks, and their updates.")),
      bytes_gauge_(metrics->Gauge("sibyl_learner_score_queue_bytes",
                                  "Bytes of the score updates that wait to be taken to the other ranks.")),
      waits_(metrics->Counter("sibyl_learner_score_queue_waits_total",
                              "Times that reading from the reward model waited because too many scores wait to be "
                              "taken to the other ranks.")) {}

bool ScoreQueue::HasRoom(const v1::ScoreUpdate& update) const {
  return updates_.empty() || (rows_ + Rows(update) <= bounds_.rows && bytes_ + update.ByteSizeLong() <= bounds_.bytes);
}

bool ScoreQueue::WaitForRoom(const v1::ScoreUpdate& update, const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, taken_);
  MutexLock lock(mutex_);
  if (HasRoom(update)) return !stop.stop_requested();
  waits_.Increment();
  while (!HasRoom(update)) {
    if (stop.stop_requested()) return false;
    clock_->WaitFor(taken_, mutex_, absl::Seconds(1));
  }
  return !stop.stop_requested();
}

void ScoreQueue::Push(const v1::ScoreUpdate& update) {
  MutexLock lock(mutex_);
  rows_ += Rows(update);
  bytes_ += update.ByteSizeLong();
  *updates_.Add() = update;
  rows_gauge_.Set(static_cast<double>(rows_));
  bytes_gauge_.Set(static_cast<double>(bytes_));
}

void ScoreQueue::TakeAll(google::protobuf::RepeatedPtrField<v1::ScoreUpdate>* updates) {
  MutexLock lock(mutex_);
  updates->Clear();
  updates->Swap(&updates_);
  rows_ = bytes_ = 0;
  rows_gauge_.Set(0);
  bytes_gauge_.Set(0);
  taken_.NotifyAll();
}

}  // namespace sibyl::learner
