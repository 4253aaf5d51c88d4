#pragma once

#include "policy/policy.h"

namespace sibyl {

// For MiniGrid's egocentric view, "image" uint8 [7, 7, 3] (object, colour, state) and "direction" int64: three 3x3
// convolutions of 16, 32 and 64 channels without padding take 7x7 to 1x1, then a layer of 512 and a GRU of 128. Each
// cell enters as three numbers, normalised for its place: codes that are rarely seen in a place (a door, a key in the
// hand) stand out. The network always normalises, whatever policy.normalise_observations says (common/config.h refuses
// false). InvalidArgument: the arrays are not these.
absl::StatusOr<std::shared_ptr<Policy>> MakeMinigridConvGru(const v1::PolicyConfig& config,
                                                            const v1::EnvironmentSpec& spec, int64_t values);

}  // namespace sibyl
