#include "cli/supervisor.h"

#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/process.h"
#include "common/random.h"
#include "common/runtime/ending.h"

namespace sibyl::cli {
namespace {

constexpr int kMostFailures = 5;
constexpr absl::Duration kFailureWindow = absl::Minutes(1);
constexpr int kMostSameWords = 3;
constexpr absl::Duration kAtOnce = absl::Seconds(3);
// A process that served its metrics for this long was working.
constexpr absl::Duration kWorking = absl::Seconds(10);
constexpr absl::Duration kLookEvery = absl::Seconds(1);
constexpr absl::Duration kScrapeLimit = absl::Milliseconds(300);
constexpr int kLogLinesShown = 15;

// A log line without the time it begins with, so that two can be compared.
std::string Words(const std::string& line) {
  const size_t space = line.find(' ');
  return space == std::string::npos ? line : line.substr(space + 1);
}

}  // namespace

Supervisor::Supervisor(std::vector<ProcessPlan> plans, double total_steps, Clock* clock, Screen* screen)
    : clock_(*clock), screen_(*screen) {
  for (ProcessPlan& plan : plans) processes_.push_back(std::make_unique<Process>(std::move(plan), FreshRandom64()));
  outcome_.figures.total_steps = total_steps;
}

RunOutcome Supervisor::Run() {
  sigemptyset(&signals_);
  for (int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals_, signal);
  // A blocked signal is delivered to sigtimedwait even where it is ignored, so an ignored one must not be waited for.
  struct sigaction hangup;
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) sigaddset(&signals_, SIGHUP);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &signals_, &before);
  const auto pipe_action = signal(SIGPIPE, SIG_IGN);
  const absl::Time begin = clock_.Now();

  absl::Time look_at = begin + kLookEvery;
  while (!ending_) {
    absl::Time now = clock_.Now();
    StartDue(now);
    absl::Time wake = look_at;
    for (const auto& process : processes_) {
      if (process->pid == 0) wake = std::min(wake, process->start_at);
    }
    if (!ending_) WaitForSignal(wake);
    now = clock_.Now();
    ReapAll(now);
    if (stop_requests_ > 0) ending_ = true;
    if (now >= look_at || complete_) {
      Look(now);
      look_at = clock_.Now() + kLookEvery;
    }
  }
  StopAll();
  screen_.Close();

  if (!outcome_.reason.empty()) {
    outcome_.kind = RunOutcome::kFailed;
  } else {
    outcome_.kind = complete_ ? RunOutcome::kFinished : RunOutcome::kStopped;
  }
  for (const auto& process : processes_) outcome_.restarts[process->plan.name] = std::max(0, process->starts - 1);
  outcome_.wall_time = clock_.Now() - begin;
  signal(SIGPIPE, pipe_action);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return outcome_;
}

void Supervisor::StartDue(absl::Time now) {
  for (const auto& process : processes_) {
    if (process->pid != 0 || now < process->start_at || ending_) continue;
    const ProcessPlan& plan = process->plan;
    const bool first = process->starts == 0;
    const auto pid = StartProcess(first ? plan.command : plan.replacement_command, plan.log);
    if (!pid.ok()) {
      Fail(*process, std::string(pid.status().message()));
      return;
    }
    process->pid = *pid;
    ++process->starts;
    process->started = now;
    process->first_served = process->last_served = absl::InfiniteFuture();
    process->steps_at_start = outcome_.figures.steps.value_or(0);
    if (!first) screen_.Event(absl::StrCat(plan.name, " is back (process ", *pid, ")"));
  }
}

void Supervisor::ReapAll(absl::Time now) {
  while (const auto end = ReapProcess()) {
    for (const auto& process : processes_) {
      if (process->pid != end->pid) continue;
      process->pid = 0;
      int64_t& peak = outcome_.peak_memory_bytes[process->plan.name];
      peak = std::max(peak, end->peak_memory_bytes);
      OnEnd(*process, end->status, now);
    }
  }
}

void Supervisor::OnEnd(Process& process, int status, absl::Time now) {
  const bool is_learner = process.plan.stage == 0;
  if (is_learner && WIFEXITED(status)) {
    complete_ = complete_ || WEXITSTATUS(status) == kExitFinished;
    outcome_.learner_saved = WEXITSTATUS(status) == kExitFinished || WEXITSTATUS(status) == kExitStopped;
  }
  if (complete_) ending_ = true;
  if (ending_ || stop_requests_ > 0) return;

  const std::string end = EndText(status);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kExitUsage) {
    Fail(process, absl::StrCat(process.plan.name, " ", end, ", which says that it was started wrongly"));
    return;
  }
  const bool worked = process.plan.works_by_steps ? outcome_.figures.steps.value_or(0) > process.steps_at_start
                                                  : now - process.first_served >= kWorking;
  if (worked) {
    process.failures.clear();
    process.same_words = 0;
    process.backoff.Reset();
  }
  process.failures.push_back(now);
  std::erase_if(process.failures, [&](absl::Time t) { return now - t > kFailureWindow; });
  const auto lines = LastLines(process.plan.log, 1);
  const std::string words = lines.empty() ? "" : Words(lines[0]);
  const bool at_once = WIFEXITED(status) && now - process.started < kAtOnce;
  process.same_words = !at_once ? 0 : words == process.last_words ? process.same_words + 1 : 1;
  process.last_words = words;
  if (process.same_words >= kMostSameWords && !words.empty()) {
    Fail(process, absl::StrCat(process.plan.name, " ", end, " at once, ", process.same_words,
                               " times in a row with the same last words"));
    return;
  }
  if (static_cast<int>(process.failures.size()) >= kMostFailures) {
    Fail(process, absl::StrCat(process.plan.name, " ", end, ", for the ", kMostFailures, "th time within ",
                               absl::FormatDuration(kFailureWindow), " without getting anything done"));
    return;
  }
  const absl::Duration wait = process.backoff.Next();
  process.start_at = now + wait;
  screen_.Event(absl::StrFormat("%s %s; it starts again in %.1f s (log: %s)", process.plan.name, end,
                                absl::ToDoubleSeconds(wait), process.plan.log));
}

void Supervisor::Look(absl::Time now) {
  std::vector<Process*> asked;
  std::vector<std::string> addresses;
  for (const auto& process : processes_) {
    if (process->pid == 0) continue;
    asked.push_back(process.get());
    addresses.push_back(process->plan.metrics);
  }
  const auto answers = Scrape(addresses, kScrapeLimit);
  for (size_t i = 0; i < asked.size(); ++i) {
    Process& process = *asked[i];
    if (!answers[i]) {
      if (now - process.last_served < process.plan.silence_limit) continue;
      screen_.Event(absl::StrCat(process.plan.name, " has not answered for ",
                                 absl::FormatDuration(process.plan.silence_limit), " and is killed"));
      kill(-process.pid, SIGKILL);
      process.last_served = absl::InfiniteFuture();
      continue;
    }
    process.first_served = std::min(process.first_served, now);
    process.last_served = now;
    if (process.plan.shown) UpdateFigures(*answers[i], &outcome_.figures);
    if (process.plan.stage == 0 && outcome_.figures.steps) rate_.Add(now, *outcome_.figures.steps);
  }
  outcome_.figures.steps_per_second = rate_.PerSecond();
  screen_.Progress(now, [&](int width) { return ProgressLine(outcome_.figures, width); });
}

void Supervisor::WaitForSignal(absl::Time until) {
  const absl::Duration left = std::max(absl::ZeroDuration(), until - clock_.Now());
  timespec wait = absl::ToTimespec(left);
  int number = sigtimedwait(&signals_, nullptr, &wait);
  while (number > 0) {
    if (number != SIGCHLD && ++stop_requests_ == 1) outcome_.signal = number;
    wait = {0, 0};
    number = sigtimedwait(&signals_, nullptr, &wait);
  }
}

void Supervisor::StopAll() {
  if (stop_requests_ > 0 && !complete_) {
    screen_.Event("stopping: the learner writes a checkpoint; once more stops at once, without one");
  }
  kill_at_ = stop_requests_ + 1;
  std::map<int, std::vector<Process*>> stages;
  for (const auto& process : processes_) stages[process->plan.stage].push_back(process.get());
  for (const auto& [number, stage] : stages) Stop(stage);
}

void Supervisor::Stop(const std::vector<Process*>& stage) {
  absl::Time deadline = clock_.Now();
  for (Process* process : stage) {
    if (process->pid == 0) continue;
    kill(process->pid, SIGTERM);
    deadline = std::max(deadline, clock_.Now() + process->plan.stop_limit);
  }
  while (std::any_of(stage.begin(), stage.end(), [](const Process* process) { return process->pid != 0; })) {
    WaitForSignal(std::min(deadline, clock_.Now() + absl::Milliseconds(200)));
    ReapAll(clock_.Now());
    if (stop_requests_ >= kill_at_) {
      screen_.Event("stopping at once");
      KillAll();
      return;
    }
    if (clock_.Now() < deadline) continue;
    for (Process* process : stage) {
      if (process->pid == 0) continue;
      screen_.Event(absl::StrCat(process->plan.name, " did not stop within ",
                                 absl::FormatDuration(process->plan.stop_limit), " and is killed"));
      kill(-process->pid, SIGKILL);
    }
    deadline = absl::InfiniteFuture();
  }
}

void Supervisor::KillAll() {
  for (const auto& process : processes_) {
    if (process->pid != 0) kill(-process->pid, SIGKILL);
  }
  while (std::any_of(processes_.begin(), processes_.end(), [](const auto& process) { return process->pid != 0; })) {
    WaitForSignal(clock_.Now() + absl::Milliseconds(100));
    ReapAll(clock_.Now());
  }
}

void Supervisor::Fail(const Process& process, const std::string& why) {
  if (outcome_.reason.empty()) outcome_.reason = why;
  ending_ = true;
  const auto lines = LastLines(process.plan.log, kLogLinesShown);
  screen_.Event(absl::StrCat("the run ends: ", why,
                             lines.empty() ? "" : absl::StrCat("\n  last lines of ", process.plan.log, ":"),
                             lines.empty() ? "" : "\n    ", absl::StrJoin(lines, "\n    ")));
}

}  // namespace sibyl::cli
