#pragma once

#include <signal.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/progress.h"
#include "cli/scrape.h"
#include "common/backoff.h"
#include "common/runtime/clock.h"

namespace sibyl::cli {

// A process of a run.
struct ProcessPlan {
  std::string name;                              // "learner", "actor-0"
  std::vector<std::string> command;              // of its first start; command[0] is the program's path
  std::vector<std::string> replacement_command;  // of later starts
  std::string log;                               // file that takes its output
  std::string metrics;                           // host:port of its metrics
  // Processes are stopped in order of their stage, those of one stage together. Stage 0 is the learner, whose end is
  // the run's.
  int stage = 0;
  // What it has after SIGTERM before it is killed.
  absl::Duration stop_limit;
  // One that has answered a request for its metrics and then answers none for this long hangs, and is killed.
  absl::Duration silence_limit = absl::Minutes(1);
  // A life in which the run's steps grew was no failed start; otherwise one in which metrics were served for a while.
  bool works_by_steps = false;
  // Its metrics are among the run's figures.
  bool shown = true;
};

struct RunOutcome {
  enum Kind { kFinished, kStopped, kFailed } kind = kFailed;
  std::string reason;  // of a failure
  // The learner was stopped and has saved its state (it ended with kExitStopped).
  bool learner_saved = false;
  // The signal that asked for the stop first; 0: none.
  int signal = 0;
  std::map<std::string, int64_t> peak_memory_bytes;  // by process, over its lives
  std::map<std::string, int> restarts;               // by process
  RunFigures figures;                                // as they were last seen
  absl::Duration wall_time;
};

// Runs processes until the learner has finished, somebody stops it, or a process cannot be kept running. Use it in the
// main thread of a process without others: its children are tied to that thread, and signals are taken there.
//
// A process that ends is started again after a jittered, growing wait. It cannot be kept running when it ended 5 times
// within a minute without having done its work in between, 3 times in a row at once with the same last words, or once
// with status 2 (bad flags).
// The run is complete when the learner has ended with kExitFinished.
// The first SIGINT, SIGTERM or SIGHUP stops the processes stage by stage; the next one kills them at once. SIGHUP is
// ignored where the process was started to ignore it (nohup).
class Supervisor {
 public:
  Supervisor(std::vector<ProcessPlan> plans, double total_steps, Clock* clock, Screen* screen);

  RunOutcome Run();

 private:
  struct Process {
    explicit Process(ProcessPlan p, uint64_t seed)
        : plan(std::move(p)), backoff(absl::Milliseconds(400), absl::Seconds(15), seed) {}
    ProcessPlan plan;
    Backoff backoff;
    pid_t pid = 0;  // 0: not running
    int starts = 0;
    absl::Time start_at = absl::InfinitePast();
    absl::Time started;
    absl::Time first_served = absl::InfiniteFuture();
    absl::Time last_served = absl::InfiniteFuture();
    double steps_at_start = 0;
    std::vector<absl::Time> failures;  // ends of lives without work, within the last minute
    std::string last_words;
    int same_words = 0;
  };

  void StartDue(absl::Time now);
  void ReapAll(absl::Time now);
  void OnEnd(Process& process, int status, absl::Time now);
  // Asks every process for its metrics.
  void Look(absl::Time now);
  // Waits for a signal, at most until `until`; notes requests to stop.
  void WaitForSignal(absl::Time until);
  void StopAll();
  void Stop(const std::vector<Process*>& stage);
  void KillAll();
  void Fail(const Process& process, const std::string& why);

  std::vector<std::unique_ptr<Process>> processes_;
  Clock& clock_;
  Screen& screen_;
  sigset_t signals_;
  int stop_requests_ = 0;
  int kill_at_ = 0;        // so many requests kill everything
  bool ending_ = false;    // no more starts
  bool complete_ = false;  // the learner has finished
  StepRate rate_;
  RunOutcome outcome_;
};

}  // namespace sibyl::cli
