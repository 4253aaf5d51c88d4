#pragma once

#include <string>

#include "absl/status/status.h"
#include "common/runtime/program.h"

namespace sibyl::actor {

// Plays for the learner at `address` until the program's stop is requested: connects, plays, and connects again with
// jittered backoff whenever the stream is lost. OK after a stop. An error when going on is pointless: the learner
// speaks another protocol, the environment cannot be made, or a game failed. Runs on the calling thread.
absl::Status PlayFor(const std::string& address, Program& program);

}  // namespace sibyl::actor
