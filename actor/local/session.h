#pragma once

#include <string>

#include "absl/status/status.h"
#include "common/runtime/program.h"

namespace sibyl::actor {

// As PlayFor of actor/session.h, with the policy in this process: fetches weights and sends unrolls. Plays on the
// calling thread; beside it a thread "reader" takes what the learner says.
absl::Status PlayLocallyFor(const std::string& address, Program& program);

}  // namespace sibyl::actor
