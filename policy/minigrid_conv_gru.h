#pragma once

#include "policy/policy.h"

namespace sibyl {

// For MiniGrid's egocentric view, "image" uint8 [7, 7, 3] (object, colour, state) and "direction" int64: three 3x3
// convolutions of 16, 32 and 64 channels without padding take 7x7 to 1x1, then a layer of 512 and a GRU of 128. Each
// cell enters as the one-hot codes of its object, colour and state, or where observations are normalised as those three
// numbers, so that what is rarely seen in a place (a door, a key in the hand) stands out. InvalidArgument: the arrays
// are not these.
absl::StatusOr<std::shared_ptr<Policy>> MakeMinigridConvGru(const v1::PolicyConfig& config,
                                                            const v1::EnvironmentSpec& spec);

}  // namespace sibyl
