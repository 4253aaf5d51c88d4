// sibyl-eval: plays episodes with the policy of a run and says how it did. `sibyl eval` becomes this program.

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "environments/registry.h"
#include "nlohmann/json.hpp"
#include "policy/evaluate.h"
#include "policy/memory.h"
#include "policy/torch.h"

namespace sibyl {
namespace {

constexpr char kUsage[] =
    R"(sibyl eval RUN [flags]

Plays episodes with the newest policy of the run in folder RUN; the weights do not change. Prints the mean return and
the success rate, with 95 % confidence intervals, the mean length, and the means of the environment's figures.

  --episodes N       how many episodes. Default 200.
  --seed S           seed of the first episode; the next ones have S + 1, S + 2, ... All below 2^32, which training
                     never plays. Default 1000000.
  --checkpoint NAME  of RUN/checkpoints, e.g. checkpoint-000001000000. Default: the newest.
  --greedy           always the likeliest action. Default: drawn from the policy, as in training.
  --environments K   episodes played side by side. Default 64.
  --json             one line of JSON instead of text.
)";

struct Arguments {
  std::string run;
  std::string checkpoint;
  EvaluationOptions options;
  bool json = false;
  bool help = false;
};

absl::Status ReadNumber(const std::string& flag, const std::string& value, uint64_t low, uint64_t* number) {
  if (absl::SimpleAtoi(value, number) && *number >= low) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is `", value, "`, must be a number from ", low));
}

absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    if (!absl::StartsWith(flag, "-")) {
      if (!arguments.run.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("`", flag, "` is one argument too many; the run is `", arguments.run, "`"));
      }
      arguments.run = flag;
      continue;
    }
    bool* const toggle = flag == "--greedy"                 ? &arguments.options.greedy
                         : flag == "--json"                 ? &arguments.json
                         : flag == "--help" || flag == "-h" ? &arguments.help
                                                            : nullptr;
    if (toggle != nullptr) {
      *toggle = true;
      continue;
    }
    std::string value;
    const size_t equals = flag.find('=');
    const bool has_value = equals != std::string::npos;
    if (has_value) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    }
    if (flag != "--episodes" && flag != "--seed" && flag != "--checkpoint" && flag != "--environments") {
      return absl::InvalidArgumentError(absl::StrCat(
          flag, " is unknown; there are --episodes, --seed, --checkpoint, --greedy, --environments, --json, --help"));
    }
    if (!has_value) {
      if (++i == argc) return absl::InvalidArgumentError(absl::StrCat(flag, " lacks its value"));
      value = argv[i];
    }
    uint64_t environments = 0;
    if (flag == "--episodes") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(flag, value, 1, &arguments.options.episodes));
    } else if (flag == "--seed") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(flag, value, 0, &arguments.options.seed));
    } else if (flag == "--environments") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(flag, value, 1, &environments));
      if (environments > 4096) return absl::InvalidArgumentError("--environments is above 4096; fewer are faster");
      arguments.options.environments = static_cast<int>(environments);
    } else {
      arguments.checkpoint = value;
    }
  }
  if (arguments.run.empty() && !arguments.help) {
    return absl::InvalidArgumentError("no run is named; e.g. sibyl eval runs/minigrid_doorkey --episodes 200");
  }
  return arguments;
}

void PrintText(const TrainedPolicy& trained, const Arguments& arguments, const EvaluationSummary& summary) {
  absl::PrintF("%s: %s after %d steps, %d episodes of seeds %d to %d, %s\n", arguments.run,
               trained.experiment.environment().name(), trained.steps, summary.episodes, arguments.options.seed,
               arguments.options.seed + summary.episodes - 1, arguments.options.greedy ? "greedy" : "sampled");
  absl::PrintF("mean return   %.4g  [%.4g, %.4g]\n", summary.episode_return.value, summary.episode_return.low,
               summary.episode_return.high);
  absl::PrintF("success rate  %.4g  [%.4g, %.4g]\n", summary.success_rate.value, summary.success_rate.low,
               summary.success_rate.high);
  absl::PrintF("mean length   %.4g steps\n", summary.length);
  for (int i = 0; i < trained.spec.figures_size(); ++i) {
    absl::PrintF("mean %s  %.6g\n", trained.spec.figures(i), summary.figures[i]);
  }
}

void PrintJson(const TrainedPolicy& trained, const Arguments& arguments, const EvaluationSummary& summary) {
  nlohmann::ordered_json line;
  line["run"] = arguments.run;
  line["checkpoint"] = trained.checkpoint;
  line["steps"] = trained.steps;
  line["environment"] = trained.experiment.environment().name();
  line["episodes"] = summary.episodes;
  line["seed"] = arguments.options.seed;
  line["greedy"] = arguments.options.greedy;
  line["mean_return"] = summary.episode_return.value;
  // Infinite, and so null, after a single episode.
  line["mean_return_95"] = {summary.episode_return.low, summary.episode_return.high};
  line["success_rate"] = summary.success_rate.value;
  line["success_rate_95"] = {summary.success_rate.low, summary.success_rate.high};
  line["mean_length"] = summary.length;
  line["figures"] = nlohmann::ordered_json::object();
  for (int i = 0; i < trained.spec.figures_size(); ++i) line["figures"][trained.spec.figures(i)] = summary.figures[i];
  std::puts(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

absl::Status Evaluate(const Arguments& arguments) {
  SIBYL_ASSIGN_OR_RETURN(const TrainedPolicy trained, LoadTrainedPolicy(arguments.run, arguments.checkpoint));
  EnvironmentOptions options;
  options.max_episode_steps = trained.experiment.environment().max_episode_steps();
  const auto make = [&] { return MakeEnvironment(trained.experiment.environment().name(), options); };
  EvaluationOptions evaluation = arguments.options;
  evaluation.told = trained.told.get();
  SIBYL_ASSIGN_OR_RETURN(const std::vector<EpisodeResult> episodes, PlayEpisodes(*trained.policy, make, evaluation));
  const EvaluationSummary summary = Summarize(episodes);
  if (arguments.json) {
    PrintJson(trained, arguments, summary);
  } else {
    PrintText(trained, arguments, summary);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  KeepMemory();
  at::set_num_threads(1);  // beside a training run, threads that wait for one another are slower than one
  absl::Status status;
  try {
    const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
    if (arguments.ok() && arguments->help) {
      std::fputs(kUsage, stdout);
      return 0;
    }
    status = arguments.ok() ? Evaluate(*arguments) : arguments.status();
  } catch (const std::exception& e) {  // LibTorch's
    status = absl::InternalError(e.what());
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "sibyl eval: %s\n", std::string(status.message()).c_str());
  return absl::IsInternal(status) ? 1 : 2;
}

}  // namespace
}  // namespace sibyl

int main(int argc, char** argv) { return sibyl::Main(argc, argv); }
