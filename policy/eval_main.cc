// sibyl-eval: plays episodes with the policy of a run and says how it did. `sibyl eval` becomes this program.

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/runtime/program.h"
#include "common/status_macros.h"
#include "environments/registry.h"
#include "nlohmann/json.hpp"
#include "policy/evaluate.h"
#include "policy/memory.h"
#include "policy/torch.h"

ABSL_FLAG(uint64_t, episodes, 200, "How many episodes.");
ABSL_FLAG(uint64_t, seed, 1'000'000,
          "Seed of the first episode; the next ones have seed + 1, seed + 2, ... All below 2^32, which training never "
          "plays.");
ABSL_FLAG(std::string, checkpoint, "", "Of RUN/checkpoints, e.g. checkpoint-000001000000. Default: the newest.");
ABSL_FLAG(bool, greedy, false, "Play the likeliest action. Default: draw it from the policy, as in training.");
ABSL_FLAG(int, environments, 64, "Episodes played side by side, at most 4096.");
ABSL_FLAG(bool, json, false, "Print one line of JSON instead of text.");

namespace sibyl {
namespace {

constexpr char kUsage[] =
    R"(sibyl eval RUN [flags]

Plays episodes with the newest policy of the run in folder RUN; the weights do not change. Prints the mean return and
the success rate, with 95 % confidence intervals, the mean length, and the means of the environment's figures.)";

struct Arguments {
  std::string run;
  EvaluationOptions options;
};

absl::StatusOr<Arguments> ReadArguments(const Program& program) {
  if (program.arguments.empty()) {
    return absl::InvalidArgumentError("no run is named; e.g. sibyl eval runs/minigrid_doorkey --episodes 200");
  }
  Arguments arguments;
  arguments.run = program.arguments[0];
  arguments.options = {.seed = absl::GetFlag(FLAGS_seed),
                       .episodes = absl::GetFlag(FLAGS_episodes),
                       .greedy = absl::GetFlag(FLAGS_greedy),
                       .environments = absl::GetFlag(FLAGS_environments),
                       .stop = program.stop()};
  if (arguments.options.episodes == 0) return absl::InvalidArgumentError("--episodes is 0, must be at least 1");
  if (arguments.options.environments < 1 || arguments.options.environments > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("--environments is ", arguments.options.environments, ", must be from 1 to 4096"));
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

absl::Status Evaluate(const Program& program) {
  SIBYL_ASSIGN_OR_RETURN(const Arguments arguments, ReadArguments(program));
  SIBYL_ASSIGN_OR_RETURN(const TrainedPolicy trained,
                         LoadTrainedPolicy(arguments.run, absl::GetFlag(FLAGS_checkpoint)));
  EnvironmentOptions options;
  options.max_episode_steps = trained.experiment.environment().max_episode_steps();
  const auto make = [&] { return MakeEnvironment(trained.experiment.environment().name(), options); };
  EvaluationOptions evaluation = arguments.options;
  evaluation.told = trained.told.get();
  SIBYL_ASSIGN_OR_RETURN(const std::vector<EpisodeResult> episodes, PlayEpisodes(*trained.policy, make, evaluation));
  const EvaluationSummary summary = Summarize(episodes);
  if (absl::GetFlag(FLAGS_json)) {
    PrintJson(trained, arguments, summary);
  } else {
    PrintText(trained, arguments, summary);
  }
  return absl::OkStatus();
}

// Everything but what LibTorch and the environments say of themselves is about the arguments and the run that they
// name.
absl::Status Run(Program& program) {
  at::set_num_threads(1);  // beside a training run, threads that wait for one another are slower than one
  const absl::Status status = Evaluate(program);
  if (absl::IsCancelled(status)) return absl::OkStatus();  // the signal decides the exit status
  return absl::IsInternal(status) ? status : UsageError(status);
}

}  // namespace
}  // namespace sibyl

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::RunMain(argc, argv, {"eval", sibyl::kUsage, /*takes_overrides=*/false, /*most_arguments=*/1},
                        sibyl::Run);
}
