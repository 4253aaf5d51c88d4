#pragma once

#include <stop_token>

#include "absl/status/status.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "reward_model/scoring/learned_model.h"

namespace sibyl::reward_model {

// The body of the thread that does a model's work, until a stop is requested. Throws what LibTorch throws.
absl::Status Learn(LearnedModel& model, Clock& clock, Heartbeats& heartbeats, const std::stop_token& stop);

}  // namespace sibyl::reward_model
