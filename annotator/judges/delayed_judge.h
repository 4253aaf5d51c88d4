#pragma once

#include <deque>
#include <memory>

#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/judges/judge.h"
#include "common/mutex.h"
#include "common/runtime/worker.h"

namespace sibyl::annotator {

// A judge whose answers come late, as an LLM's do: each `delay` after it was asked, eight at a time. For experiments.
class DelayedJudge : public Judge {
 public:
  DelayedJudge(std::unique_ptr<Judge> judge, absl::Duration delay, const Host& host);

  std::string name() const override { return judge_->name(); }
  std::string prompt() const override { return judge_->prompt(); }
  std::string sampling() const override { return judge_->sampling(); }
  std::string Rendered(const v1::Query& query) const override { return judge_->Rendered(query); }
  absl::Status Check(const v1::Query& query) const override { return judge_->Check(query); }
  int capacity() const override { return 8; }
  void Answer(const v1::Query& query, std::function<void(Verdict)> done) override;

 private:
  struct Waiting {
    absl::Time due;
    v1::Query query;
    std::function<void(Verdict)> done;
  };
  absl::Status Run(const std::stop_token& stop);

  const std::unique_ptr<Judge> judge_;
  const absl::Duration delay_;
  Clock& clock_;
  const std::unique_ptr<Heartbeat> heartbeat_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);  // first due first
  Worker worker_;                                        // last: uses all of the above
};

}  // namespace sibyl::annotator
