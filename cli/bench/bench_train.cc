#include "cli/bench/bench_train.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/arguments.h"
#include "cli/bench/bench_env.h"
#include "cli/process.h"
#include "cli/scrape.h"
#include "common/config.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

constexpr absl::Duration kStartLimit = absl::Minutes(1);
constexpr double kLimitShare = 0.15;  // of the time that training is measured for: each of the limit's three parts

// A run at one moment.
struct Moment {
  absl::Time time;
  cli::Samples samples;                       // of all processes; what actors count is added up
  std::map<std::string, double> cpu_seconds;  // by program
};

absl::StatusOr<Moment> Look(const std::string& run, pid_t supervisor) {
  SIBYL_ASSIGN_OR_RETURN(const std::string targets, ReadFile(run + "/metrics_targets.json"));
  std::vector<std::string> addresses, processes;
  for (const auto& target : nlohmann::json::parse(targets)) {
    addresses.push_back(target["targets"][0]);
    processes.push_back(target["labels"]["process"]);
  }
  Moment moment;
  const auto answers = cli::Scrape(addresses, absl::Seconds(2));
  moment.time = absl::Now();
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].has_value()) return absl::UnavailableError("a process does not answer");
    for (const auto& [series, value] : *answers[i]) {
      // Each learner counts the steps of all.
      if (series == "sibyl_learner_steps_total" && processes[i] != "learner") continue;
      moment.samples[series] += value;
    }
  }
  std::ifstream children(absl::StrCat("/proc/", supervisor, "/task/", supervisor, "/children"));
  for (pid_t pid; children >> pid;) {
    const std::string command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline")).value_or("");
    moment.cpu_seconds[std::filesystem::path(command.c_str()).filename().string()] += cli::CpuSeconds(pid);
  }
  return moment;
}

nlohmann::ordered_json Compare(const Moment& before, const Moment& after) {
  const auto grown = [&](const std::string& series) {
    const auto from = before.samples.find(series), to = after.samples.find(series);
    return to == after.samples.end() ? 0 : to->second - (from == before.samples.end() ? 0 : from->second);
  };
  const auto now = [&](const std::string& series) {
    const auto found = after.samples.find(series);
    return found == after.samples.end() ? 0 : found->second;
  };
  const double seconds = absl::ToDoubleSeconds(after.time - before.time);
  const double steps = grown("sibyl_learner_steps_total");
  double cpu = 0;
  nlohmann::ordered_json by_program;
  for (const auto& [program, used] : after.cpu_seconds) {
    const auto earlier = before.cpu_seconds.find(program);
    by_program[program] = used - (earlier == before.cpu_seconds.end() ? 0 : earlier->second);
    cpu += by_program[program].get<double>();
  }
  const double batches = grown("sibyl_learner_inference_batches_total");
  return {
      {"steps_per_second", steps / seconds},
      {"wall_seconds", seconds},
      {"cpu_seconds", cpu},
      {"cpu_seconds_per_million_steps", steps > 0 ? cpu / steps * 1e6 : 0},
      {"cpu_seconds_by_program", by_program},
      {"bytes_per_step", steps > 0 ? grown("sibyl_learner_received_bytes_total") / steps : 0},
      {"training_busy_share", grown("sibyl_learner_update_seconds_total") / seconds},
      {"inference_busy_share", grown("sibyl_learner_inference_seconds_total") / seconds},
      {"inference_batch_rows", batches > 0 ? grown("sibyl_learner_received_steps_total") / batches : 0},
      {"policy_lag_steps", now("sibyl_learner_policy_lag_steps")},
  };
}

// What the network's arithmetic and the games alone would allow on this machine, with the run's own batch sizes: the
// cores do one after another, each as fast as they can.
absl::Status AddLimit(const std::string& config, const std::vector<std::string>& overrides, absl::Duration time,
                      const std::string& log, nlohmann::ordered_json* line) {
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment experiment, LoadExperiment(config, overrides));
  // An actor that holds the policy takes all its environments through it at once.
  const double rows = experiment.actor().inference() == v1::INFERENCE_LOCAL ? experiment.actor().environments()
                                                                            : line->value("inference_batch_rows", 1.0);
  std::vector<std::string> command = {cli::BinaryFolder() + "/sibyl-bench-limit", "--config=" + config,
                                      absl::StrCat("--rows=", std::max(1, static_cast<int>(std::lround(rows)))),
                                      absl::StrCat("--seconds=", absl::ToDoubleSeconds(time))};
  for (const std::string& override : overrides) command.push_back("--set=" + override);
  SIBYL_ASSIGN_OR_RETURN(const pid_t pid, cli::StartProcess(command, log));
  int status = 0;
  waitpid(pid, &status, 0);
  const std::vector<std::string> said = cli::LastLines(log, 10);
  if (status != 0 || said.empty()) {
    return absl::UnavailableError(
        absl::StrCat("sibyl-bench-limit ", cli::EndText(status), "; it said:\n", absl::StrJoin(said, "\n")));
  }
  const auto arithmetic = nlohmann::json::parse(said.back());
  EnvironmentBenchmark games;
  games.environment = experiment.environment().name();
  games.threads = arithmetic["cores"];
  const uint32_t played = experiment.actor().processes() * experiment.actor().environments();
  games.environments = std::max(games.threads, static_cast<int>(played));
  games.time = time;
  SIBYL_ASSIGN_OR_RETURN(const EnvironmentSpeed speed, MeasureEnvironments(games));
  const double inference = arithmetic["inference_rows_per_second"], training = arithmetic["training_steps_per_second"],
               environment = static_cast<double>(speed.steps) / speed.wall_seconds;
  const double limit = 1 / (1 / inference + 1 / training + 1 / environment);
  line->update({{"limit_inference_rows_per_second", inference},
                {"limit_training_steps_per_second", training},
                {"limit_environment_steps_per_second", environment},
                {"limit_steps_per_second", limit},
                {"share_of_limit", line->value("steps_per_second", 0.0) / limit}});
  return absl::OkStatus();
}

absl::Status Refused(const std::string& what, const std::string& run) {
  return absl::UnavailableError(
      absl::StrCat(what, "; it said:\n", absl::StrJoin(cli::LastLines(run + ".log", 10), "\n")));
}

absl::StatusOr<nlohmann::ordered_json> Measure(const std::vector<std::string>& train, const std::string& run,
                                               absl::Duration warm_up, absl::Duration time) {
  SIBYL_ASSIGN_OR_RETURN(const pid_t pid, cli::StartProcess(train, run + ".log"));
  const absl::Cleanup stop = [pid] {
    kill(pid, SIGTERM);
    waitpid(pid, nullptr, 0);
  };
  const auto steps = [&]() -> double {
    const auto moment = Look(run, pid);
    if (!moment.ok()) return 0;
    const auto steps = moment->samples.find("sibyl_learner_steps_total");
    return steps == moment->samples.end() ? 0 : steps->second;  // it comes with the learner's last part
  };
  for (const absl::Time limit = absl::Now() + kStartLimit; steps() == 0;) {
    siginfo_t end = {};
    if (waitid(P_PID, pid, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid == pid) {
      return Refused("training ended at once", run);
    }
    if (absl::Now() > limit) return Refused("training did not begin within a minute", run);
    absl::SleepFor(absl::Milliseconds(50));
  }
  absl::SleepFor(warm_up);
  SIBYL_ASSIGN_OR_RETURN(const Moment before, Look(run, pid));
  absl::SleepFor(time);
  SIBYL_ASSIGN_OR_RETURN(const Moment after, Look(run, pid));
  const nlohmann::ordered_json line = Compare(before, after);
  if (line["steps_per_second"] == 0.0) {
    return absl::UnavailableError(
        absl::StrCat("no batch was trained on within ", absl::FormatDuration(time), "; measure longer (--seconds)"));
  }
  return line;
}

// Trains under the overrides in a folder of its own, and removes it.
absl::StatusOr<nlohmann::ordered_json> MeasureOnce(const std::string& config, const std::vector<std::string>& overrides,
                                                   absl::Duration warm_up, absl::Duration time, bool limit) {
  std::string folder = (std::filesystem::temp_directory_path() / "sibyl-bench.XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return absl::UnavailableError("cannot make " + folder);
  const absl::Cleanup remove = [&folder] { std::filesystem::remove_all(folder); };
  const std::string run = folder + "/run";
  std::vector<std::string> train = {std::filesystem::read_symlink("/proc/self/exe").string(), "train", config,
                                    "--run_dir", run,
                                    // Ended by time, not by steps.
                                    "--set", "total_steps=1000000000000"};
  for (const std::string& override : overrides) {
    train.push_back("--set");
    train.push_back(override);
  }
  SIBYL_ASSIGN_OR_RETURN(nlohmann::ordered_json line, Measure(train, run, warm_up, time));
  if (limit) SIBYL_RETURN_IF_ERROR(AddLimit(config, overrides, kLimitShare * time, folder + "/limit.log", &line));
  return line;
}

// The mean of ratios and where it lies with a probability of 95 %: Student's t, its quantile by the expansion of
// Cornish and Fisher to second order; of the ratios' logarithms.
nlohmann::ordered_json MeanRatio(const std::vector<double>& ratios) {
  const double n = static_cast<double>(ratios.size());
  double mean = 0, squares = 0;
  for (const double ratio : ratios) mean += std::log(ratio) / n;
  for (const double ratio : ratios) squares += std::pow(std::log(ratio) - mean, 2);
  nlohmann::ordered_json line = {{"ratios", ratios}, {"ratio", std::exp(mean)}};
  if (ratios.size() < 2) return line;
  const double freedom = n - 1;
  const double quantile = 1.96 + 2.372 / freedom + 2.823 / (freedom * freedom);
  const double reach = quantile * std::sqrt(squares / freedom / n);
  line.update({{"ratio_low", std::exp(mean - reach)}, {"ratio_high", std::exp(mean + reach)}});
  return line;
}

// Both sides in turn, every second pair in the opposite order: what drifts meets both alike.
absl::StatusOr<nlohmann::ordered_json> MeasurePairs(const std::string& config,
                                                    const std::vector<std::string>& overrides,
                                                    const std::vector<std::string>& against, int pairs,
                                                    absl::Duration warm_up, absl::Duration time) {
  std::vector<std::string> both = overrides;
  both.insert(both.end(), against.begin(), against.end());
  nlohmann::ordered_json sides[2];
  std::vector<double> ratios;
  for (int pair = 0; pair < pairs; ++pair) {
    double speed[2];
    for (const int side : {pair % 2, 1 - pair % 2}) {
      SIBYL_ASSIGN_OR_RETURN(const auto line,
                             MeasureOnce(config, side == 0 ? overrides : both, warm_up, time, /*limit=*/false));
      speed[side] = line["steps_per_second"];
      for (const char* key : {"steps_per_second", "cpu_seconds_per_million_steps", "cpu_seconds_by_program"}) {
        sides[side][key].push_back(line[key]);
      }
    }
    ratios.push_back(speed[0] / speed[1]);
  }
  nlohmann::ordered_json line = {{"against", against}};
  line.update(MeanRatio(ratios));
  line["this"] = sides[0];
  line["other"] = sides[1];
  return line;
}

}  // namespace

int BenchTrainMain(absl::Span<const std::string> arguments) {
  const auto refuse = [](const absl::Status& status) {
    std::fprintf(stderr, "sibyl bench train: %s\n", std::string(status.message()).c_str());
    return absl::IsInvalidArgument(status) ? 2 : 1;
  };
  const std::vector<cli::Flag> flags = {
      {"set", "field=value"}, {"seconds", "S"}, {"warmup", "W"}, {"against", "field=value"}, {"pairs", "N"}};
  const auto parsed = cli::ParseArguments("sibyl bench train", flags, arguments);
  if (!parsed.ok()) return refuse(parsed.status());
  if (parsed->positional.size() != 1) {
    return refuse(absl::InvalidArgumentError("name one configuration, e.g. configs/minigrid_keycorridor.textproto"));
  }
  int seconds = 0, warm_up = 0, pairs = 0;
  for (const auto& [name, otherwise, value] :
       {std::tuple("seconds", "20", &seconds), {"warmup", "5", &warm_up}, {"pairs", "5", &pairs}}) {
    const std::string text = parsed->Value(name, otherwise);
    if (absl::SimpleAtoi(text, value) && *value >= 1 && *value <= 100'000) continue;
    return refuse(
        absl::InvalidArgumentError(absl::StrCat("--", name, " is `", text, "`, must be a number from 1 to 100000")));
  }

  const std::string& config = parsed->positional[0];
  const auto measured = parsed->Has("against") ? MeasurePairs(config, parsed->Values("set"), parsed->Values("against"),
                                                              pairs, absl::Seconds(warm_up), absl::Seconds(seconds))
                                               : MeasureOnce(config, parsed->Values("set"), absl::Seconds(warm_up),
                                                             absl::Seconds(seconds), /*limit=*/true);
  if (!measured.ok()) return refuse(measured.status());
  nlohmann::ordered_json line = {{"bench", "train"}, {"config", config}};
  line.update(*measured);
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace sibyl
