#pragma once

#include <ostream>
#include <string>

#include "absl/types/span.h"

namespace sibyl {

// `sibyl rollout`: plays an environment with random or given actions, prints a line of JSON a step, and can save what
// was seen, for comparisons with the environment's Python package. `arguments`: those after the word `rollout`
// (`--help` prints them). Returns the exit status: 0; 2 where an argument, or a file it names, cannot be used; 1 where
// something else fails. Errors go to standard error.
int RolloutMain(absl::Span<const std::string> arguments);

// The same, writing to the given streams.
int RunRollout(absl::Span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace sibyl
