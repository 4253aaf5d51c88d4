#include "learner/experience/score_applier.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::learner {

namespace {
// A message of scores is applied in milliseconds.
constexpr absl::Duration kHangs = absl::Minutes(1);
}  // namespace

ScoreApplier::ScoreApplier(CaptionTable* captions, Clock* clock, Heartbeats* heartbeats, size_t most_rows)
    : captions_(captions),
      most_rows_(most_rows),
      clock_(clock),
      heartbeat_(heartbeats->Add("scores", kHangs)),
      worker_(
          "scores", [this](const std::stop_token& stop) { return Run(stop); },
          [this](absl::Status failure) {
            MutexLock lock(mutex_);
            failure_ = std::move(failure);
          }) {}

absl::Status ScoreApplier::Add(google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates, uint64_t step) {
  if (updates.empty()) return absl::OkStatus();
  Job job = {std::move(updates), step, 0};
  for (const v1::ScoreUpdate& update : job.updates) job.rows += 1 + update.id_size() + update.removed_size();
  MutexLock lock(mutex_);
  SIBYL_RETURN_IF_ERROR(failure_);
  if (waiting_rows_ + job.rows > most_rows_) {
    return absl::ResourceExhaustedError(absl::StrCat("scores come faster than they can be applied: ", waiting_rows_,
                                                     " rows wait and ", job.rows, " have come; the most is ",
                                                     most_rows_));
  }
  waiting_rows_ += job.rows;
  jobs_.push_back(std::move(job));
  changed_.NotifyOne();
  return absl::OkStatus();
}

size_t ScoreApplier::waiting_rows() const {
  MutexLock lock(mutex_);
  return waiting_rows_;
}

absl::Status ScoreApplier::Run(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, changed_);
  while (true) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stop.stop_requested()) {
        heartbeat_->Beat();
        clock_->WaitFor(changed_, mutex_, absl::Seconds(1));
      }
      if (stop.stop_requested()) return absl::OkStatus();
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    for (const v1::ScoreUpdate& update : job.updates) {
      heartbeat_->Beat();
      SIBYL_RETURN_IF_ERROR(captions_->Apply(update, job.step));
    }
    MutexLock lock(mutex_);
    waiting_rows_ -= job.rows;
  }
}

}  // namespace sibyl::learner
