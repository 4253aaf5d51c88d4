#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/runtime/program.h"

namespace sibyl::actor {

// The main of both actor programs: takes their flags, serves metrics, and calls `play` with the learner's address until
// it returns. `usage` is what --help prints. Returns the exit status.
int ActorMain(int argc, char** argv, const char* usage,
              const std::function<absl::Status(const std::string& learner, Program& program)>& play);

}  // namespace sibyl::actor
