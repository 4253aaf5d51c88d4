#include "cli/bench/bench_transport.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/arguments.h"
#include "cli/ports.h"
#include "cli/process.h"
#include "cli/scrape.h"
#include "common/config.h"
#include "common/cores.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl {
namespace {

constexpr char kEnvironment[] = "debug/NetHackReplay";
constexpr absl::Duration kStartLimit = absl::Minutes(1);

// The processes of a measurement. They end with it.
class Processes {
 public:
  explicit Processes(std::string folder) : folder_(std::move(folder)) {}
  ~Processes() {
    // Actors first: they would try to connect again.
    for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
      kill(process->pid, SIGTERM);
      waitpid(process->pid, nullptr, 0);
    }
  }

  // `core`: the only one it may use; nullopt: any.
  absl::Status Start(const std::string& name, std::vector<std::string> command, std::optional<int> core) {
    command[0] = absl::StrCat(cli::BinaryFolder(), "/", command[0]);
    // The process inherits what this thread may use.
    cpu_set_t before, only;
    sched_getaffinity(0, sizeof before, &before);
    if (core.has_value()) {
      CPU_ZERO(&only);
      CPU_SET(*core, &only);
      sched_setaffinity(0, sizeof only, &only);
    }
    const absl::StatusOr<pid_t> pid = cli::StartProcess(command, LogOf(name));
    sched_setaffinity(0, sizeof before, &before);
    SIBYL_RETURN_IF_ERROR(pid.status());
    processes_.push_back({name, *pid});
    return absl::OkStatus();
  }

  // Unavailable, with its last words, when one has ended.
  absl::Status Check() const {
    for (const Process& process : processes_) {
      siginfo_t end = {};
      if (waitid(P_PID, process.pid, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid == process.pid) {
        return absl::UnavailableError(absl::StrCat(process.name, " ended; it said:\n",
                                                   absl::StrJoin(cli::LastLines(LogOf(process.name), 10), "\n")));
      }
    }
    return absl::OkStatus();
  }

  // So far. The first process is the learner, the rest are actors.
  double LearnerCpuSeconds() const { return cli::CpuSeconds(processes_.front().pid); }
  double ActorCpuSeconds() const {
    double seconds = 0;
    for (size_t i = 1; i < processes_.size(); ++i) seconds += cli::CpuSeconds(processes_[i].pid);
    return seconds;
  }

 private:
  struct Process {
    std::string name;
    pid_t pid;
  };
  std::string LogOf(const std::string& name) const { return absl::StrCat(folder_, "/", name, ".log"); }

  const std::string folder_;
  std::vector<Process> processes_;
};

// A measurement at one moment.
struct Moment {
  absl::Time time;
  cli::Samples samples;  // the learner's
  double learner_cpu_seconds, actor_cpu_seconds;
};

absl::StatusOr<Moment> Look(const Processes& processes, const std::string& metrics) {
  SIBYL_RETURN_IF_ERROR(processes.Check());
  Moment moment;
  moment.learner_cpu_seconds = processes.LearnerCpuSeconds();
  moment.actor_cpu_seconds = processes.ActorCpuSeconds();
  moment.time = absl::Now();
  auto answer = cli::Scrape({metrics}, absl::Seconds(2)).front();
  if (!answer.has_value()) return absl::UnavailableError("the learner's metrics do not answer");
  moment.samples = *std::move(answer);
  return moment;
}

nlohmann::ordered_json Compare(const Moment& before, const Moment& after) {
  const auto grown = [&](const std::string& series) {
    const auto from = before.samples.find(series), to = after.samples.find(series);
    return to == after.samples.end() ? 0 : to->second - (from == before.samples.end() ? 0 : from->second);
  };
  const double seconds = absl::ToDoubleSeconds(after.time - before.time);
  const double steps = grown("sibyl_learner_received_steps_total");
  const double batches = grown("sibyl_learner_inference_batches_total");
  const double learner = after.learner_cpu_seconds - before.learner_cpu_seconds;
  const double actors = after.actor_cpu_seconds - before.actor_cpu_seconds;
  const auto a_million = [&](double cpu) { return steps > 0 ? cpu / steps * 1e6 : 0; };
  return {
      {"steps_per_second", steps / seconds},
      {"wall_seconds", seconds},
      {"cpu_seconds", learner + actors},
      {"learner_cpu_seconds_per_million_steps", a_million(learner)},
      {"actor_cpu_seconds_per_million_steps", a_million(actors)},
      {"steps_per_learner_core_second", learner > 0 ? steps / learner : 0},
      {"bytes_per_step", steps > 0 ? grown("sibyl_learner_received_bytes_total") / steps : 0},
      {"inference_busy_share", grown("sibyl_learner_inference_seconds_total") / seconds},
      {"inference_batch_rows", batches > 0 ? steps / batches : 0},
  };
}

// The cores that processes are pinned to: those that this process may use, and no more than its quota gives it.
std::vector<int> CoresToPin() {
  std::vector<int> cores = AllowedCores();
  cores.resize(std::min(cores.size(), static_cast<size_t>(AvailableCores())));
  return cores;
}

// `pin`: the learner is pinned to the first of these cores, the actors share the others; empty: nothing is pinned.
absl::StatusOr<nlohmann::ordered_json> Measure(const v1::Experiment& experiment, const std::string& folder,
                                               absl::Duration warm_up, absl::Duration time,
                                               const std::vector<int>& pin) {
  const std::string config = folder + "/experiment.textproto";
  SIBYL_RETURN_IF_ERROR(WriteFileDurably(config, ExperimentText(experiment)));
  const int actors = static_cast<int>(experiment.actor().processes());
  SIBYL_ASSIGN_OR_RETURN(const std::vector<int> ports, cli::FreePorts(2 + actors, getpid()));
  const std::string address = absl::StrCat("127.0.0.1:", ports[0]), metrics = absl::StrCat("127.0.0.1:", ports[1]);
  Processes processes(folder);
  SIBYL_RETURN_IF_ERROR(processes.Start("learner",
                                        {"sibyl-bench-learner", "--config=" + config, "--run_dir=" + folder,
                                         "--listen=" + address, "--metrics_listen=" + metrics},
                                        pin.empty() ? std::nullopt : std::optional(pin[0])));
  for (int i = 0; i < actors; ++i) {
    SIBYL_RETURN_IF_ERROR(processes.Start(
        absl::StrCat("actor-", i),
        {"sibyl-actor", "--learner=" + address, absl::StrCat("--metrics_listen=127.0.0.1:", ports[2 + i])},
        pin.empty() ? std::nullopt : std::optional(pin[1 + i % (pin.size() - 1)])));
  }
  // Until every actor plays.
  for (const absl::Time limit = absl::Now() + kStartLimit;;) {
    SIBYL_RETURN_IF_ERROR(processes.Check());
    const auto moment = Look(processes, metrics);
    if (moment.ok()) {
      const auto connected = moment->samples.find("sibyl_learner_actors_connected");
      const auto steps = moment->samples.find("sibyl_learner_received_steps_total");
      if (connected != moment->samples.end() && connected->second == actors && steps->second > 0) break;
    }
    if (absl::Now() > limit) return absl::UnavailableError("the actors do not play within a minute");
    absl::SleepFor(absl::Milliseconds(50));
  }
  absl::SleepFor(warm_up);
  SIBYL_ASSIGN_OR_RETURN(const Moment before, Look(processes, metrics));
  absl::SleepFor(time);
  SIBYL_ASSIGN_OR_RETURN(const Moment after, Look(processes, metrics));
  return Compare(before, after);
}

}  // namespace

int BenchTransportMain(absl::Span<const std::string> arguments) {
  const auto refuse = [](const absl::Status& status) {
    std::fprintf(stderr, "sibyl bench transport: %s\n", std::string(status.message()).c_str());
    return absl::IsInvalidArgument(status) ? 2 : 1;
  };
  const std::vector<cli::Flag> flags = {{"actors", "N"},        {"environments", "E"}, {"groups", "G"},
                                        {"set", "field=value"}, {"seconds", "S"},      {"warmup", "W"},
                                        {"pin", "0|1"}};
  const auto parsed = cli::ParseArguments("sibyl bench transport", flags, arguments);
  if (!parsed.ok()) return refuse(parsed.status());
  if (!parsed->positional.empty()) {
    return refuse(
        absl::InvalidArgumentError(absl::StrCat("takes flags only, but `", parsed->positional[0], "` is given")));
  }
  int actors = 0, environments = 0, groups = 0, seconds = 0, warm_up = 0;
  for (const auto& [name, otherwise, value] : {std::tuple("actors", "2", &actors),
                                               {"environments", "64", &environments},
                                               {"groups", "2", &groups},
                                               {"seconds", "10", &seconds},
                                               {"warmup", "2", &warm_up}}) {
    const std::string text = parsed->Value(name, otherwise);
    if (absl::SimpleAtoi(text, value) && *value >= 1 && *value <= 100'000) continue;
    return refuse(
        absl::InvalidArgumentError(absl::StrCat("--", name, " is `", text, "`, must be a number from 1 to 100000")));
  }
  const std::string pin = parsed->Value("pin", "0");
  if (pin != "0" && pin != "1") {
    return refuse(absl::InvalidArgumentError(absl::StrCat("--pin is `", pin, "`, must be 0 or 1")));
  }
  std::vector<int> cores;
  if (pin == "1") cores = CoresToPin();
  if (pin == "1" && cores.size() < 2) {
    return refuse(absl::InvalidArgumentError(
        absl::StrCat("--pin 1 needs two cores, one for the learner and the others for actors; this process may use ",
                     AvailableCores())));
  }
  v1::Experiment experiment;
  experiment.set_name("transport");
  experiment.mutable_environment()->set_name(kEnvironment);
  experiment.mutable_actor()->set_processes(actors);
  experiment.mutable_actor()->set_environments(environments);
  experiment.mutable_actor()->set_groups(groups);
  experiment.mutable_reward()->set_intrinsic_coefficient(0);
  for (const std::string& override : parsed->Values("set")) {
    if (const absl::Status status = ApplyOverride(override, &experiment); !status.ok()) return refuse(status);
  }
  FillDefaults(&experiment);
  if (const absl::Status status = Validate(experiment); !status.ok()) return refuse(status);
  const auto spec = FindEnvironmentSpec(experiment.environment().name());
  if (!spec.ok()) return refuse(spec.status());

  std::string folder = (std::filesystem::temp_directory_path() / "sibyl-bench.XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return refuse(absl::UnavailableError("cannot make " + folder));
  const absl::Cleanup remove = [&folder] { std::filesystem::remove_all(folder); };
  const auto measured = Measure(experiment, folder, absl::Seconds(warm_up), absl::Seconds(seconds), cores);
  if (!measured.ok()) return refuse(measured.status());
  nlohmann::ordered_json line = {{"bench", "transport"},
                                 {"environment", spec->name()},
                                 {"actors", experiment.actor().processes()},
                                 {"environments", experiment.actor().environments()},
                                 {"groups", experiment.actor().groups()},
                                 {"pinned", pin == "1"}};
  line.update(*measured);
  line["raw_bytes_per_step"] = ObservationBytes(*spec);
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace sibyl
