#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl {

// A learner's checkpoints: RUN/checkpoints/checkpoint-<steps, 12 digits>/ holds weights.safetensors and state.records.
// The learner writes them (learner/training/checkpoint.h); this file names and reads them.
inline constexpr uint32_t kLearnerStateVersion = 2;

// What else may lie in RUN/checkpoints:
// - checkpoint-<steps>.tmp: one that is being written, or was when the learner was killed;
// - checkpoint-<steps>.replaced: the earlier one of the same steps, until the new one is in its place;
// - checkpoint-<steps>.damaged: one that could not be read, set aside;
// - newest: the name of the newest checkpoint, for people and scripts.
inline constexpr char kReplacedSuffix[] = ".replaced", kDamagedSuffix[] = ".damaged";

struct Checkpoint {
  std::string name;     // "checkpoint-000000001024"
  std::string folder;   // with the run's path
  std::string weights;  // path of the weights
  v1::LearnerState state;
};

// The checkpoint of so many steps.
std::string CheckpointName(uint64_t steps);

// The names of a run's checkpoints, oldest first; damaged ones that were set aside are left out.
std::vector<std::string> CheckpointNames(const std::string& run_dir, FileSystem& files = FileSystem::Real());

// Reads a checkpoint and checks the checksums of both files. DataLoss: a file is damaged or missing; the message names
// it. FailedPrecondition: the checkpoint has another format version. Other errors: a file could not be read.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& run_dir, const std::string& name,
                                          FileSystem& files = FileSystem::Real());

// Reads the newest checkpoint that is not damaged. Damaged ones are logged and added to `damaged` (nullptr: not
// wanted). NotFound: there is no checkpoint. DataLoss: every checkpoint is damaged.
absl::StatusOr<Checkpoint> ReadNewestCheckpoint(const std::string& run_dir, FileSystem& files = FileSystem::Real(),
                                                std::vector<std::string>* damaged = nullptr);

}  // namespace sibyl
