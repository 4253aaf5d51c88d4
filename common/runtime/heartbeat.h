#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"

namespace sibyl {

class Heartbeats;

// The sign of life of one loop. Beat() is for any thread and takes no lock.
class Heartbeat {
 public:
  // The loop ends on purpose: it is not watched any longer.
  ~Heartbeat();
  void Beat() { last_micros_.store(absl::ToUnixMicros(clock_.Now()), std::memory_order_relaxed); }
  // The loop now waits for a peer, which may take for ever. The loop is not watched until its next Beat.
  void Rest() { last_micros_.store(kResting, std::memory_order_relaxed); }

 private:
  static constexpr int64_t kResting = std::numeric_limits<int64_t>::max();
  friend class Heartbeats;
  Heartbeat(Heartbeats& owner, Clock& clock, std::string loop, absl::Duration limit, prometheus::Gauge& silence);

  Heartbeats& owner_;
  Clock& clock_;
  const std::string loop_;
  const absl::Duration limit_;
  prometheus::Gauge& silence_;
  std::atomic<int64_t> last_micros_;
};

// The loops of a process, and whether all of them live. A loop beats once a turn. A loop that has nothing to do wakes
// every second, or every few seconds, to beat; it rests where it cannot wake (it reads from a peer). So silence means
// that the loop hangs. Any thread.
class Heartbeats {
 public:
  Heartbeats(Clock& clock, Metrics& metrics) : clock_(clock), metrics_(metrics) {}

  // A loop that counts as hanging when it has not beaten for `limit`. It has beaten now. The result must not outlive
  // this.
  std::unique_ptr<Heartbeat> Add(const std::string& loop, absl::Duration limit);

  // Looks at every loop, about once a second: updates sibyl_loop_silence_seconds, logs a loop that hangs or has come
  // back, and tells `on_health` when the process's health changes.
  void Check();

  // `on_health(healthy)` is called from Check when health changes, and now. Replaces an earlier one; nullptr: none.
  void OnHealth(std::function<void(bool healthy)> on_health);

 private:
  friend class Heartbeat;
  // Zero while the loop rests.
  absl::Duration Silence(const Heartbeat& loop) const;

  Clock& clock_;
  Metrics& metrics_;
  Mutex mutex_;
  std::list<Heartbeat*> loops_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> hanging_ ABSL_GUARDED_BY(mutex_);
  std::function<void(bool)> on_health_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl
