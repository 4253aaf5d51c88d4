#pragma once

#include <string>

#include "absl/types/span.h"

namespace sibyl {

// `sibyl bench transport [--actors N] [--environments E] [--groups G] [--pin 0|1] [--set field=value]... [--seconds S]
// [--warmup W]`: the Act stream alone, between the learner's own receiving side with a policy that costs nothing and no
// training (sibyl-bench-learner), and real actors that replay NetHack (debug/NetHackReplay). Prints a line of JSON
// about S seconds of it. With --pin 1 the learner has the first core to itself, and the actors share the others.
// Returns the exit status: 0; 2 where an argument cannot be used; 1 where a process fails.
int BenchTransportMain(absl::Span<const std::string> arguments);

}  // namespace sibyl
