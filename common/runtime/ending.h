#pragma once

#include <atomic>
#include <stop_token>

#include "absl/status/status.h"
#include "common/mutex.h"

namespace sibyl {

// The exit statuses of every program.
enum ExitStatus : int {
  kExitFinished = 0,       // the work is complete, and everything that it made is saved
  kExitFailed = 1,         // anything else; a state that could not be saved among them
  kExitUsage = 2,          // flags or configuration are wrong: starting again would fail again
  kExitInterrupted = 130,  // `sibyl` alone: stopped by SIGINT, its state saved
  kExitStopped = 143,      // stopped by SIGTERM or SIGINT, its state saved
};

// Marks an error as one of flags or configuration, so that the program ends with kExitUsage. OK stays OK.
absl::Status UsageError(absl::Status status);
bool IsUsageError(const absl::Status& status);

// Logs an error as "CODE: message".
void LogError(const absl::Status& status);

// Why a process ends. Any thread.
class Ending {
 public:
  // The work is complete. Does nothing after StopBySignal.
  void Finish();
  // The process cannot do its job, or lost a state while it ended. The first reason decides; later ones are logged.
  void Fail(absl::Status reason);
  // A signal asked for the end. Does nothing after Finish.
  void StopBySignal();

  // Each of the three requests this token's stop.
  std::stop_token token() const { return source_.get_token(); }
  bool requested() const { return source_.stop_requested(); }

  // The reason that Fail was given; OK without one.
  absl::Status failure() const;

  // The exit status of a program whose main part returned `status`, which includes what Close() of every owner of
  // durable state said. Logs `status` where it is an error.
  int ExitStatusFor(const absl::Status& status) const;

 private:
  std::stop_source source_;
  mutable Mutex mutex_;
  enum { kNothing, kFinished, kSignal } asked_by_ ABSL_GUARDED_BY(mutex_) = kNothing;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl
