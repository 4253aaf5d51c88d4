#pragma once

#include <string>

#include "absl/types/span.h"

namespace sibyl {

// `sibyl bench train CONFIG [--set field=value]... [--seconds S] [--warmup W] [--against field=value]... [--pairs N]`:
// trains in a folder of its own, which is removed afterwards, and prints a line of JSON about S seconds of it and about
// how fast LibTorch and the games alone would be. With `against`, trains in turn without and with those overrides too,
// N times each, and prints how many times faster the first is. Returns the exit status: 0; 2 where an argument cannot
// be used; 1 where training fails.
int BenchTrainMain(absl::Span<const std::string> arguments);

}  // namespace sibyl
