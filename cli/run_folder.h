#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::cli {

// What `sibyl train` was asked for.
struct RunRequest {
  std::string config;   // empty: the configuration in run_dir
  std::string run_dir;  // empty: runs/<name of the experiment>-<local time>
  std::vector<std::string> overrides;
  bool resume = false;
  std::string binaries;  // folder of the programs that are going to be started
};

// A run's folder, held by this process: nobody else can train in it.
class RunFolder {
 public:
  // Checks everything that can be checked before a process is started, then makes the folder (or, on a resume, compares
  // what was asked for with what is there), and writes into it:
  //   experiment.textproto   the effective configuration, which all processes read
  //   judge/                 copies of the judge's rules or prompt, which the configuration in the folder names
  //   logs/                  for the output of processes
  // Errors name the field or the file, and the remedy; nothing is written then.
  static absl::StatusOr<RunFolder> Prepare(const RunRequest& request);

  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder();

  // Absolute.
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  std::string Log(const std::string& process) const { return path_ + "/logs/" + process + ".log"; }
  // As the processes read it.
  const v1::Experiment& experiment() const { return experiment_; }

 private:
  RunFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  absl::Status Lock();

  std::string path_;
  int lock_ = -1;
  v1::Experiment experiment_;
};

// The environment exists and can be made, the judge's file can be read, the programs are there.
absl::Status CheckRunnable(const v1::Experiment& experiment, const std::string& binaries);

// The program of the experiment's actors.
const char* ActorProgram(const v1::Experiment& experiment);

// The file that labels, or scores that need none, are made with: annotator.rules_file, annotator.openai.prompt_file or
// reward_model.weights_file. "": there is none.
std::string JudgeFile(const v1::Experiment& experiment);

}  // namespace sibyl::cli
