#pragma once

#include <atomic>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace sibyl {

// How a process is told to stop: SIGINT, SIGTERM, or a background thread that cannot go on. Make it first in main,
// before any thread: it blocks the two signals, so that they reach nothing else.
class Shutdown {
 public:
  Shutdown();
  ~Shutdown();

  // Any thread: the process cannot do its job; main is to exit non-zero with this reason. The first reason wins.
  void Fail(absl::Status reason);
  // Any thread: the work is done; main is to exit with 0.
  void Done();

  bool requested() const { return requested_.load(std::memory_order_relaxed); }
  // Waits for any of the above, at most `limit`; true when it came.
  bool WaitFor(absl::Duration limit);
  // OK after a signal or Done(), else the reason.
  absl::Status reason();

  // Logs the reason and gives the exit status for main: 0 or 1.
  int ExitCode();

 private:
  void Request(absl::Status reason);
  void Watch();

  Mutex mutex_;
  CondVar changed_;
  std::atomic<bool> requested_ = false;
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stop_watching_ = false;
  std::thread watcher_;
};

}  // namespace sibyl
