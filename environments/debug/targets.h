#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "environments/environment.h"

namespace sibyl {

// Environments for tests of action spaces. Each step shows a target, drawn from the seed, and pays by how near the
// action comes; 1 is the most. An episode has 16 steps.
//
// debug/Choices: the action has a part of 3 choices and a part of 4. "target" uint8 [7] marks the choice that each part
// is paid for, half of the reward each. "legal" uint8 [7] is the action's mask: the target's choices and some others.
// The figure "illegal_choices" counts choices that the mask forbade.
inline constexpr char kChoicesName[] = "debug/Choices";
// debug/Reach: the action is three numbers, within [-2, 2], within [0, 10] and without bounds. "target" float32 [3]
// lies within [-1, 1]; it means the bounds' width for the first two numbers. The reward is 1 less the mean distance, -1
// at least.
inline constexpr char kReachName[] = "debug/Reach";

v1::EnvironmentSpec TargetsSpec(absl::string_view name, const EnvironmentOptions& options);
absl::StatusOr<std::unique_ptr<Environment>> MakeTargets(absl::string_view name, const EnvironmentOptions& options);

}  // namespace sibyl
