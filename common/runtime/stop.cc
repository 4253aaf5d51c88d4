#include "common/runtime/stop.h"

namespace sibyl {

bool WaitForStop(const std::stop_token& stop, Clock& clock, absl::Duration limit) {
  Mutex mutex;
  CondVar changed;
  const WakeOnStop wake(stop, mutex, changed);
  const absl::Time until = clock.Now() + limit;
  MutexLock lock(mutex);
  while (!stop.stop_requested()) {
    const absl::Duration left = until - clock.Now();
    if (left <= absl::ZeroDuration()) break;
    clock.WaitFor(changed, mutex, left);
  }
  return stop.stop_requested();
}

}  // namespace sibyl
