#include "common/runtime/program.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/runtime/worker.h"

namespace sibyl {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Takes the blocked stop signals as they come, and looks at the heartbeats.
absl::Status Watch(const std::stop_token& stop, Ending& ending, Heartbeats& heartbeats, Clock& clock) {
  const sigset_t set = StopSignals();
  const timespec poll = {0, 100'000'000};
  int signals = 0;
  absl::Time check_at = clock.Now();
  while (!stop.stop_requested()) {
    const int number = sigtimedwait(&set, nullptr, &poll);
    if (number > 0 && ++signals > 1) {
      spdlog::error("a second signal: ending at once, without saving");
      _exit(kExitFailed);
    }
    if (number > 0) {
      spdlog::info("{}: stopping", number == SIGINT ? "SIGINT" : "SIGTERM");
      ending.StopBySignal();
    }
    if (clock.Now() >= check_at) {
      heartbeats.Check();
      check_at = clock.Now() + absl::Seconds(1);
    }
  }
  return absl::OkStatus();
}

// The status with which ParseCommandLine ends the process: Abseil always calls exit(1).
int parse_exit_status = -1;

std::vector<char*> ParseFlags(int argc, char** argv) {
  parse_exit_status = kExitUsage;
  for (int i = 1; i < argc; ++i) {
    if (absl::string_view(argv[i]) == "--help" || absl::string_view(argv[i]) == "-help") parse_exit_status = 0;
  }
  std::atexit([] {
    if (parse_exit_status < 0) return;
    std::fflush(nullptr);
    _exit(parse_exit_status);
  });
  std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  parse_exit_status = -1;
  return rest;
}

}  // namespace

int RunMain(int argc, char** argv, const ProgramInfo& info, const std::function<absl::Status(Program&)>& run) {
  // Blocked before any thread is made, so that the signals reach Watch alone.
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  InitLog(info.name);
  absl::SetProgramUsageMessage(info.usage);
  // Every program defines its flags in a main.cc (or *_main.cc); those are what --help shows.
  absl::FlagsUsageConfig usage;
  usage.contains_help_flags = [](absl::string_view file) { return absl::EndsWith(file, "main.cc"); };
  absl::SetFlagsUsageConfig(usage);

  Clock& clock = Clock::Real();
  Metrics metrics;
  Ending ending;
  Heartbeats heartbeats(clock, metrics);
  std::vector<std::string> overrides = TakeOverrides(&argc, argv);
  const std::vector<char*> rest = ParseFlags(argc, argv);
  Program program{
      std::move(overrides), {rest.begin() + 1, rest.end()}, clock, FileSystem::Real(), metrics, ending, heartbeats};
  if (static_cast<int>(program.arguments.size()) > info.most_arguments) {
    return ending.ExitStatusFor(UsageError(absl::InvalidArgumentError(
        absl::StrCat("unexpected argument `", program.arguments[info.most_arguments], "`; --help lists the flags"))));
  }
  if (!program.overrides.empty() && !info.takes_overrides) {
    return ending.ExitStatusFor(UsageError(
        absl::InvalidArgumentError("--set is no flag of this program; set the field where the learner starts")));
  }
  absl::Status status;
  {
    const Worker watcher(
        "signals", [&](const std::stop_token& stop) { return Watch(stop, ending, heartbeats, clock); }, program.fail());
    status = CatchExceptions([&] { return run(program); });
    heartbeats.OnHealth(nullptr);
  }
  return ending.ExitStatusFor(status);
}

}  // namespace sibyl
