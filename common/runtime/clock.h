#pragma once

#include "absl/time/time.h"
#include "common/mutex.h"

namespace sibyl {

// Where time comes from, so that a test can hold it still. Any thread.
class Clock {
 public:
  virtual ~Clock() = default;

  // Never goes back: the machine's time when the process began, plus the time that has passed since.
  virtual absl::Time Now() = 0;

  // Waits until `changed` is notified or `limit` has passed on this clock. May return without cause: call it in a loop
  // that checks its condition and Now().
  virtual void WaitFor(CondVar& changed, Mutex& mutex, absl::Duration limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) = 0;

  // The machine's clock. Lives for ever.
  static Clock& Real();
};

// Stands still until a test advances it. Any thread.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::UnixEpoch() + absl::Hours(1)) : now_micros_(absl::ToUnixMicros(now)) {}

  absl::Time Now() override { return absl::FromUnixMicros(__atomic_load_n(&now_micros_, __ATOMIC_RELAXED)); }
  // Looks at the fake time once a millisecond of real time.
  void WaitFor(CondVar& changed, Mutex& mutex, absl::Duration limit) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (limit > absl::ZeroDuration()) changed.WaitFor(mutex, std::chrono::milliseconds(1));
  }
  void Advance(absl::Duration by) { __atomic_fetch_add(&now_micros_, absl::ToInt64Microseconds(by), __ATOMIC_RELAXED); }

 private:
  int64_t now_micros_;
};

}  // namespace sibyl
