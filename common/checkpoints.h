#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl {

// RUN/checkpoints/checkpoint-<steps, 12 digits>/ holds weights.safetensors and state.pb; the learner writes them.
inline constexpr uint32_t kLearnerStateVersion = 1;

// The names of a run's checkpoints, oldest first.
std::vector<std::string> CheckpointNames(const std::string& run_dir);

// The newest checkpoint's folder. NotFound when there is none.
absl::StatusOr<std::string> NewestCheckpoint(const std::string& run_dir);

// Reads a checkpoint's state. FailedPrecondition when another format wrote it.
absl::StatusOr<v1::LearnerState> ReadLearnerState(const std::string& checkpoint);

}  // namespace sibyl
