#include "annotator/judges/delayed_judge.h"

#include "common/log.h"

namespace sibyl::annotator {

DelayedJudge::DelayedJudge(std::unique_ptr<Judge> judge, absl::Duration delay)
    : judge_(std::move(judge)), delay_(absl::ToChronoNanoseconds(delay)), thread_([this] { Run(); }) {}

DelayedJudge::~DelayedJudge() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void DelayedJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  MutexLock lock(mutex_);
  waiting_.push_back({std::chrono::steady_clock::now() + delay_, query, std::move(done)});
  changed_.NotifyAll();
}

void DelayedJudge::Run() {
  NameThread("delay");
  while (true) {
    Waiting next;
    {
      MutexLock lock(mutex_);
      while (!stop_) {
        if (waiting_.empty()) {
          changed_.Wait(mutex_);
          continue;
        }
        const auto left = waiting_.front().due - std::chrono::steady_clock::now();
        if (left <= left.zero()) break;
        changed_.WaitFor(mutex_, left);
      }
      if (stop_) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    judge_->Answer(next.query, std::move(next.done));
  }
}

}  // namespace sibyl::annotator
