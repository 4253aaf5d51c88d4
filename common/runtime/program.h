#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "common/runtime/ending.h"
#include "common/runtime/file_system.h"
#include "common/runtime/heartbeat.h"

namespace sibyl {

// What RunMain gives to a program. Lives as long as the program's main part. Any thread.
struct Program {
  std::vector<std::string> overrides;  // of every --set, as LoadExperiment takes them
  std::vector<std::string> arguments;  // those that are no flags
  Clock& clock;
  FileSystem& files;
  Metrics& metrics;
  Ending& ending;
  Heartbeats& heartbeats;

  std::stop_token stop() const { return ending.token(); }
  // For Worker.
  std::function<void(absl::Status)> fail() const {
    return [&ending = ending](absl::Status reason) { ending.Fail(std::move(reason)); };
  }
};

struct ProgramInfo {
  const char* name;              // in log lines
  const char* usage;             // printed by --help, above the flags of the program
  bool takes_overrides = false;  // --set field=value
  int most_arguments = 0;
};

// The one start and the one ending of every program. Call it first in main, before any thread is made:
//   int main(int argc, char** argv) { return sibyl::RunMain(argc, argv, {"learner", "..."}, Train); }
// It sets up the log, takes the --set overrides, parses the flags, and handles signals while `run` runs:
// - SIGTERM or SIGINT requests the stop of `program.stop()`. SIGPIPE is ignored.
// - A second SIGTERM or SIGINT ends the process at once with status 1. Only signals count for this: one signal after
//   Finish or Fail changes nothing.
// About once a second it looks at the heartbeats.
//
// `run` does the program's work until stop() is requested, ends it in the program's own order, and returns the first
// error that any owner of durable state gave when it was closed. Its status and `program.ending` decide the exit status
// (ExitStatus). An exception in `run` is an error.
int RunMain(int argc, char** argv, const ProgramInfo& info, const std::function<absl::Status(Program&)>& run);

}  // namespace sibyl
