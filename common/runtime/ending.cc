#include "common/runtime/ending.h"

#include "absl/strings/cord.h"
#include "common/log.h"

namespace sibyl {
namespace {

constexpr char kUsagePayload[] = "sibyl/usage";

}  // namespace

absl::Status UsageError(absl::Status status) {
  if (!status.ok()) status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsagePayload).has_value(); }

void LogError(const absl::Status& status) {
  spdlog::error("{}: {}", absl::StatusCodeToString(status.code()), status.message());
}

void Ending::Finish() {
  {
    MutexLock lock(mutex_);
    if (asked_by_ == kNothing) asked_by_ = kFinished;
  }
  source_.request_stop();
}

void Ending::StopBySignal() {
  {
    MutexLock lock(mutex_);
    if (asked_by_ == kNothing) asked_by_ = kSignal;
  }
  source_.request_stop();
}

void Ending::Fail(absl::Status reason) {
  LogError(reason);
  {
    MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = std::move(reason);
  }
  source_.request_stop();
}

absl::Status Ending::failure() const {
  MutexLock lock(mutex_);
  return failure_;
}

int Ending::ExitStatusFor(const absl::Status& status) const {
  if (!status.ok()) LogError(status);
  MutexLock lock(mutex_);
  const absl::Status& decides = failure_.ok() ? status : failure_;
  if (!decides.ok()) return IsUsageError(decides) ? kExitUsage : kExitFailed;
  return asked_by_ == kSignal ? kExitStopped : kExitFinished;
}

}  // namespace sibyl
