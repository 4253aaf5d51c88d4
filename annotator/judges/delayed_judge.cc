#include "annotator/judges/delayed_judge.h"

#include <algorithm>

#include "common/runtime/stop.h"

namespace sibyl::annotator {
namespace {
// The rules answer in microseconds.
constexpr absl::Duration kHangs = absl::Minutes(1);
}  // namespace

DelayedJudge::DelayedJudge(std::unique_ptr<Judge> judge, absl::Duration delay, const Host& host)
    : judge_(std::move(judge)),
      delay_(delay),
      clock_(host.clock),
      heartbeat_(host.heartbeats.Add("delay", kHangs)),
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
        const absl::Duration left = waiting_.empty() ? absl::InfiniteDuration() : waiting_.front().due - clock_.Now();
        clock_.WaitFor(changed_, mutex_, std::min(left, absl::Seconds(1)));
        heartbeat_->Beat();
      }
      if (stop.stop_requested()) return absl::OkStatus();
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    heartbeat_->Beat();
    judge_->Answer(next.query, std::move(next.done));
  }
}

}  // namespace sibyl::annotator
