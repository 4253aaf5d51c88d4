#pragma once

#include <atomic>
#include <cstdint>

#include "common/metrics.h"

namespace sibyl::learner {

// Counts the environment steps and the bytes that came from actors of both kinds. Any thread.
class StepCounter {
 public:
  // `first`: environment steps received earlier in the run.
  StepCounter(uint64_t first, Metrics* metrics)
      : received_(first),
        steps_(metrics->Counter("sibyl_learner_received_steps_total", "Environment steps received from actors.")),
        bytes_(metrics->Counter("sibyl_learner_received_bytes_total",
                                "Bytes of experience received from actors, before gRPC's framing.")) {}

  void Add(uint64_t steps) {
    received_.fetch_add(steps, std::memory_order_relaxed);
    steps_.Increment(static_cast<double>(steps));
  }
  void AddBytes(uint64_t bytes) { bytes_.Increment(static_cast<double>(bytes)); }

  // Environment steps received over the run.
  uint64_t received() const { return received_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> received_;
  prometheus::Counter& steps_;
  prometheus::Counter& bytes_;
};

}  // namespace sibyl::learner
