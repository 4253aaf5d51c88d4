#pragma once

#include <string>
#include <vector>

namespace sibyl {

// Removes every "--set field=value" and "--set=field=value" (also "-set") before a "--" from the arguments. Returns the
// "field=value"s in their order, as LoadExperiment takes them. Abseil's flags keep only the last value of a repeated
// flag, so call this before absl::ParseCommandLine. A "--set" at the end gives "", which LoadExperiment refuses.
std::vector<std::string> TakeOverrides(int* argc, char** argv);

}  // namespace sibyl
