#include "annotator/judges/delayed_judge.h"

#include "common/runtime/stop.h"

namespace sibyl::annotator {

DelayedJudge::DelayedJudge(std::unique_ptr<Judge> judge, absl::Duration delay, const Host& host)
    : judge_(std::move(judge)),
      delay_(delay),
      clock_(host.clock),
      worker_(
          "delay", [this](const std::stop_token& stop) { return Run(stop); }, host.fail) {}

void DelayedJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  MutexLock lock(mutex_);
  waiting_.push_back({clock_.Now() + delay_, query, std::move(done)});
  changed_.NotifyAll();
}

absl::Status DelayedJudge::Run(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, changed_);
  while (true) {
    Waiting next;
    {
      MutexLock lock(mutex_);
      while (!stop.stop_requested() && (waiting_.empty() || clock_.Now() < waiting_.front().due)) {
        clock_.WaitFor(changed_, mutex_, waiting_.empty() ? absl::Seconds(1) : waiting_.front().due - clock_.Now());
      }
      if (stop.stop_requested()) return absl::OkStatus();
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    judge_->Answer(next.query, std::move(next.done));
  }
}

}  // namespace sibyl::annotator
