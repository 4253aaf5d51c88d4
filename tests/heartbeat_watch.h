#pragma once

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "tests/process.h"

namespace sibyl {

// The heartbeats of a process, on a clock that stands still, and the health that they give it.
class HeartbeatWatch {
 public:
  HeartbeatWatch() {
    heartbeats.OnHealth([this](bool healthy) { healthy_ = healthy; });
  }
  ~HeartbeatWatch() { heartbeats.OnHealth(nullptr); }

  bool Healthy() {
    heartbeats.Check();
    return healthy_;
  }
  // Whether every loop beats again when `silence` has passed at once, and time goes on.
  bool ComesBackAfter(absl::Duration silence) {
    clock.Advance(silence);
    return Eventually([this] {
      clock.Advance(absl::Milliseconds(100));
      return Healthy();
    });
  }
  // sibyl_loop_silence_seconds of the loop; -1 where the process never had such a loop.
  double Silence(const std::string& loop) {
    heartbeats.Check();
    const std::string text = metrics.Text(), name = absl::StrCat("sibyl_loop_silence_seconds{loop=\"", loop, "\"} ");
    const size_t at = text.find(name);
    double seconds = -1;
    if (at == std::string::npos) return seconds;
    const size_t begin = at + name.size();
    return absl::SimpleAtod(text.substr(begin, text.find('\n', begin) - begin), &seconds) ? seconds : -1;
  }

  FakeClock clock;
  Metrics metrics;
  Heartbeats heartbeats{clock, metrics};

 private:
  bool healthy_ = false;
};

// A place where a loop hangs until a test lets it go. Any thread.
class Gate {
 public:
  ~Gate() { Open(); }
  void Wait() {
    MutexLock lock(mutex_);
    reached_ = true;
    while (!open_) opened_.Wait(mutex_);
  }
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    opened_.NotifyAll();
  }
  bool reached() {
    MutexLock lock(mutex_);
    return reached_;
  }

 private:
  Mutex mutex_;
  CondVar opened_;
  bool reached_ ABSL_GUARDED_BY(mutex_) = false, open_ ABSL_GUARDED_BY(mutex_) = false;
};

// While the loop hangs in the gate, its silence grows and the process is not healthy; then the gate is opened, and the
// process is healthy again.
inline void ExpectSilenceWhileIn(Gate& gate, HeartbeatWatch& watch, const std::string& loop) {
  ASSERT_TRUE(Eventually([&] { return gate.reached(); })) << loop;
  watch.clock.Advance(absl::Minutes(10));
  EXPECT_FALSE(watch.Healthy()) << loop;
  EXPECT_GE(watch.Silence(loop), 600) << loop;
  gate.Open();
  EXPECT_TRUE(watch.ComesBackAfter(absl::ZeroDuration())) << loop;
}

}  // namespace sibyl
