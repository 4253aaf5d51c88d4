#pragma once

#include <string>
#include <vector>

namespace sibyl {

// Takes every "--set field=value", "--set=field=value" (and "-set") out of the arguments, up to a "--", and gives the
// "field=value"s in their order, as LoadExperiment wants them. Abseil's flags keep only the last of a flag that is
// repeated, so call this before absl::ParseCommandLine. A "--set" with nothing behind it gives "", which LoadExperiment
// refuses.
std::vector<std::string> TakeOverrides(int* argc, char** argv);

}  // namespace sibyl
