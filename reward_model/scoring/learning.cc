#include "reward_model/scoring/learning.h"

#include <algorithm>

#include "common/runtime/stop.h"

namespace sibyl::reward_model {
namespace {

// A piece of work takes some ten milliseconds; one that takes longer than this hangs.
constexpr absl::Duration kHangs = absl::Minutes(1);

}  // namespace

absl::Status Learn(LearnedModel& model, Clock& clock, Heartbeats& heartbeats, const std::stop_token& stop) {
  const std::unique_ptr<Heartbeat> heartbeat = heartbeats.Add("learning", kHangs);
  at::set_num_threads(1);
  absl::Duration rest;
  do {
    heartbeat->Beat();
    rest = model.Work();
  } while (!WaitForStop(stop, clock, rest));
  return absl::OkStatus();
}

}  // namespace sibyl::reward_model
