#include "cli/train.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/arguments.h"
#include "cli/model_server.h"
#include "cli/ports.h"
#include "cli/process.h"
#include "cli/summary.h"
#include "common/config.h"
#include "common/random.h"
#include "common/runtime/ending.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl::cli {
namespace {

// Order in which processes are stopped.
enum Stage { kLearner, kOtherLearners, kActors, kRewardModel, kAnnotator, kModelServer };

// What a learner may take to write its checkpoint, and the others to end.
constexpr absl::Duration kLearnerStopLimit = absl::Minutes(1);
constexpr absl::Duration kStopLimit = absl::Seconds(10);
// The embedded model gets little of the processor, and answers for its metrics between two pieces of work.
constexpr absl::Duration kModelServerSilence = absl::Minutes(10);

// A Prometheus file_sd document.
std::string MetricsTargets(const v1::Experiment& experiment, const std::vector<ProcessPlan>& plans) {
  nlohmann::json targets = nlohmann::json::array();
  for (const ProcessPlan& plan : plans) {
    targets.push_back({{"targets", {plan.metrics}}, {"labels", {{"process", plan.name}, {"run", experiment.name()}}}});
  }
  return targets.dump(2) + "\n";
}

int Refuse(const absl::Status& status) {
  std::fprintf(stderr, "sibyl train: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

}  // namespace

absl::StatusOr<std::vector<ProcessPlan>> PlanProcesses(const RunFolder& run, const std::string& binaries, bool resume) {
  const v1::Experiment& experiment = run.experiment();
  const bool rewarded = RewardsCaptions(experiment), judged = AsksJudge(experiment);
  const int actors = static_cast<int>(experiment.actor().processes());
  const int ranks = static_cast<int>(experiment.learner().ranks());
  SIBYL_ASSIGN_OR_RETURN(const std::vector<int> ports, FreePorts(6 + 2 * ranks + actors, FreshRandom64()));
  size_t next_port = 0;
  const auto address = [&] { return absl::StrCat("127.0.0.1:", ports[next_port++]); };
  const std::string annotator = address(), reward_model = address(), rendezvous = address();
  std::vector<std::string> learners(ranks);
  for (std::string& learner : learners) learner = address();
  const std::string config = absl::StrCat("--config=", run.File("experiment.textproto"));
  const std::string folder = absl::StrCat("--run_dir=", run.path());

  std::vector<ProcessPlan> plans;
  const auto add = [&](const std::string& name, const char* program, int stage, std::vector<std::string> flags) {
    ProcessPlan plan;
    plan.name = name;
    plan.command = {absl::StrCat(binaries, "/", program)};
    plan.metrics = address();
    plan.command.insert(plan.command.end(), flags.begin(), flags.end());
    plan.command.push_back(absl::StrCat("--metrics_listen=", plan.metrics));
    plan.replacement_command = plan.command;
    plan.log = run.Log(name);
    plan.stage = stage;
    plan.stop_limit = stage == kLearner ? kLearnerStopLimit : kStopLimit;
    plan.works_by_steps = stage == kLearner || stage == kOtherLearners || stage == kActors;
    plans.push_back(std::move(plan));
  };
  if (judged) {
    std::vector<std::string> annotator_flags = {config, folder, absl::StrCat("--listen=", annotator)};
    if (AsksEmbeddedModel(experiment)) {
      const int port = ports[next_port++];
      ProcessPlan plan;
      plan.name = "llm";
      plan.command = plan.replacement_command = ModelServerCommand(experiment, binaries, port);
      plan.metrics = absl::StrCat("127.0.0.1:", port);
      plan.log = run.Log(plan.name);
      plan.stage = kModelServer;
      plan.stop_limit = kStopLimit;
      plan.silence_limit = kModelServerSilence;
      plan.shown = false;
      plans.push_back(std::move(plan));
      annotator_flags.push_back(absl::StrCat("--llm=", plans.back().metrics));
    }
    add("annotator", "sibyl-annotator", kAnnotator, std::move(annotator_flags));
  }
  if (rewarded) {
    std::vector<std::string> reward_flags = {config, folder};
    if (judged) reward_flags.push_back(absl::StrCat("--annotator=", annotator));
    reward_flags.push_back(absl::StrCat("--listen=", reward_model));
    add("reward_model", "sibyl-reward-model", kRewardModel, std::move(reward_flags));
  }
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<std::string> learner_flags = {config, folder};
    if (rewarded && rank == 0) learner_flags.push_back(absl::StrCat("--reward_model=", reward_model));
    learner_flags.push_back(absl::StrCat("--listen=", learners[rank]));
    if (ranks > 1) {
      learner_flags.push_back(absl::StrCat("--rank=", rank));
      learner_flags.push_back(absl::StrCat("--rendezvous=", rendezvous));
    }
    // The first one's end is the run's; told to stop, it stops the others.
    add(rank == 0 ? "learner" : absl::StrCat("learner-", rank), "sibyl-learner", rank == 0 ? kLearner : kOtherLearners,
        std::move(learner_flags));
    plans.back().shown = rank == 0;  // which tells of all
    plans.back().replacement_command.push_back("--resume");
    if (resume) plans.back().command.push_back("--resume");
  }
  for (int i = 0; i < actors; ++i) {
    add(absl::StrCat("actor-", i), ActorProgram(experiment), kActors,
        {absl::StrCat("--learner=", learners[i * ranks / actors])});
  }
  return plans;
}

int TrainMain(absl::Span<const std::string> arguments) {
  const std::vector<Flag> flags = {{"run_dir", "DIR"}, {"set", "field=value"}, {"resume", ""}};
  const auto parsed = ParseArguments("sibyl train", flags, arguments);
  if (!parsed.ok()) return Refuse(parsed.status());
  if (parsed->positional.size() > 1) {
    return Refuse(
        absl::InvalidArgumentError(absl::StrCat("one configuration is taken, but there are ", parsed->positional.size(),
                                                ": ", absl::StrJoin(parsed->positional, " "))));
  }
  RunRequest request;
  if (!parsed->positional.empty()) request.config = parsed->positional[0];
  request.run_dir = parsed->Value("run_dir");
  request.overrides = parsed->Values("set");
  request.resume = parsed->Has("resume");
  request.binaries = BinaryFolder();
  const auto run = RunFolder::Prepare(request);
  if (!run.ok()) return Refuse(run.status());
  const v1::Experiment& experiment = run->experiment();
  auto plans = PlanProcesses(*run, request.binaries, request.resume);
  if (!plans.ok()) return Refuse(plans.status());
  if (const auto written = WriteFileDurably(run->File("metrics_targets.json"), MetricsTargets(experiment, *plans));
      !written.ok()) {
    return Refuse(written);
  }

  Screen screen = Screen::StandardOutput();
  screen.Event(absl::StrCat(request.resume ? "going on with " : "training ", experiment.environment().name(), " in ",
                            run->path(), ": ", plans->size(), " processes, output in logs/"));
  const std::string learner_summary = run->File("learner_summary.json");
  Supervisor supervisor(*std::move(plans), static_cast<double>(experiment.total_steps()), &Clock::Real(), &screen);
  const RunOutcome outcome = supervisor.Run();

  const auto summary = Summarise(experiment, outcome, ReadLearnerSummary(learner_summary));
  const auto written = WriteFileDurably(run->File("summary.json"), summary.dump(2) + "\n");
  std::printf("\n%s\n", SummaryText(summary).c_str());
  if (outcome.kind == RunOutcome::kStopped) {
    std::printf("%s; go on with: sibyl train --resume --run_dir %s\n",
                outcome.learner_saved ? "The learner wrote a checkpoint"
                                      : "The learner wrote no last checkpoint; its log says why",
                run->path().c_str());
  }
  std::fflush(stdout);
  if (!written.ok()) return Refuse(written);
  switch (outcome.kind) {
    case RunOutcome::kFinished:
      return kExitFinished;
    case RunOutcome::kStopped:
      if (!outcome.learner_saved) return kExitFailed;
      return outcome.signal == SIGINT ? kExitInterrupted : kExitStopped;
    case RunOutcome::kFailed:
      break;
  }
  std::fprintf(stderr, "sibyl train: %s\n", outcome.reason.c_str());
  return kExitFailed;
}

}  // namespace sibyl::cli
