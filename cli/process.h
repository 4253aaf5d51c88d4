#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sibyl::cli {

// Starts a program: command[0] is its path. It runs in a process group of its own, so that a terminal's Ctrl-C does not
// reach it, with default signal handling, nothing on standard input, and both outputs appended to `log_path`. The
// kernel kills it when the calling thread ends for whatever reason, so call this from the main thread only.
// NotFound or PermissionDenied: the program or the log could not be opened.
absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& command, const std::string& log_path);

struct ProcessEnd {
  pid_t pid;
  int status;  // as waitpid gives it
  int64_t peak_memory_bytes;
};

// A child that has ended and was not reported yet; nothing when there is none.
std::optional<ProcessEnd> ReapProcess();

// "ended with status 1", "was killed by signal 9 (Killed)".
std::string EndText(int status);

// User and system time that a process, ours or not, has taken so far; 0 when there is none of that id.
double CpuSeconds(pid_t pid);

// The folder that the Sibyl programs are in: $SIBYL_BIN if it is set, else where this program is.
std::string BinaryFolder();

// The last `count` lines of a file, without line ends; none when there is no such file.
std::vector<std::string> LastLines(const std::string& path, int count);

}  // namespace sibyl::cli
