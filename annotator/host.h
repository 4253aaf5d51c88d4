#pragma once

#include <functional>

#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"

namespace sibyl::annotator {

// What the process gives to each of the annotator's parts. All of it outlives the parts.
struct Host {
  Clock& clock;
  Metrics& metrics;
  Heartbeats& heartbeats;
  // Ends the process with the reason: a part cannot do its work any more. Any thread; does not block.
  std::function<void(absl::Status)> fail;
};

// Longest silence of a loop before the process counts as hanging.
inline constexpr absl::Duration kLongestSilence = absl::Seconds(30);

}  // namespace sibyl::annotator
