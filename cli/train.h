#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cli/run_folder.h"
#include "cli/supervisor.h"

namespace sibyl::cli {

// `sibyl train`: the arguments behind the command; returns the exit status (ExitStatus in
// common/runtime/ending.h).
int TrainMain(absl::Span<const std::string> arguments);

// The processes of a run on this machine, each with ports of its own on 127.0.0.1.
absl::StatusOr<std::vector<ProcessPlan>> PlanProcesses(const RunFolder& run, const std::string& binaries, bool resume);

}  // namespace sibyl::cli
