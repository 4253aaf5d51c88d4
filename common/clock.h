#pragma once

#include "absl/time/time.h"

namespace sibyl {

// Where time comes from, so that a test can hold it still. Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;

  // The machine's clock. Lives for ever.
  static Clock& Real();
};

// Stands still until it is told to advance. Any thread.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::UnixEpoch() + absl::Hours(1)) : now_micros_(absl::ToUnixMicros(now)) {}
  absl::Time Now() override { return absl::FromUnixMicros(__atomic_load_n(&now_micros_, __ATOMIC_RELAXED)); }
  void Advance(absl::Duration by) { __atomic_fetch_add(&now_micros_, absl::ToInt64Microseconds(by), __ATOMIC_RELAXED); }

 private:
  int64_t now_micros_;
};

}  // namespace sibyl
