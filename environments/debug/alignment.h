#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "environments/environment.h"

namespace sibyl {

inline constexpr char kAlignmentName[] = "debug/Alignment";

// "debug/Alignment": an environment for tests of everything between an environment and the trainer. Each observation,
// reward and caption says which episode and step it belongs to, so that a mix-up anywhere shows:
//   seed    int64[]   the seed of the episode (from it and the slot follows the episode's number)
//   step    int32[]   steps played in this episode
//   last    int32[]   the action that led here, -1 after a reset
//   reward of step k (k = 1, 2, ...) is AlignmentReward(seed, k)
//   caption of step k is "step <k % 3> of <seed>", so that each occurs several times; none where k % 5 == 4
// An episode's length is 3 + seed % 47 steps; where seed is even it is truncated there, else terminated. 4 actions.
v1::EnvironmentSpec AlignmentSpec(const EnvironmentOptions& options);
absl::StatusOr<std::unique_ptr<Environment>> MakeAlignment(const EnvironmentOptions& options);

// In [0, 1).
float AlignmentReward(uint64_t seed, int step);
int AlignmentLength(uint64_t seed);
std::string AlignmentCaption(uint64_t seed, int step);

}  // namespace sibyl
