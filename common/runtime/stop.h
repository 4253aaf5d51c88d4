#pragma once

#include <stop_token>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"

// How threads are told to stop: std::stop_token. This file holds the two ways of waiting for one.

namespace sibyl {

// While it lives, a stop request notifies `changed`. Make it before `mutex` is locked: where the request has come
// already, the constructor notifies. The waiting loop checks stop_requested() itself.
class WakeOnStop {
 public:
  WakeOnStop(const std::stop_token& stop, Mutex& mutex, CondVar& changed) : callback_(stop, Notify{mutex, changed}) {}

 private:
  struct Notify {
    Mutex& mutex;
    CondVar& changed;
    void operator()() const {
      MutexLock lock(mutex);
      changed.NotifyAll();
    }
  };
  std::stop_callback<Notify> callback_;
};

// Waits until a stop is requested or `limit` has passed on the clock. Returns whether a stop was requested.
bool WaitForStop(const std::stop_token& stop, Clock& clock, absl::Duration limit);

}  // namespace sibyl
