// sibyl-annotator: takes queries, has a judge answer them, keeps the labels.

#include <filesystem>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/judges/delayed_judge.h"
#include "annotator/judges/openai_judge.h"
#include "annotator/judges/prompt.h"
#include "annotator/judges/query_key.h"
#include "annotator/judges/rules_judge.h"
#include "annotator/judges/similarity.h"
#include "annotator/serving/annotator.h"
#include "annotator/serving/service.h"
#include "annotator/store/sqlite_label_log.h"
#include "common/config.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/rpc/server.h"
#include "common/shutdown.h"
#include "common/status_macros.h"

ABSL_FLAG(std::string, config, "", "Configuration of the experiment, a sibyl.v1.Experiment in text format. Required.");
ABSL_FLAG(std::string, run_dir, ".", "Folder of the run; annotator.store is relative to it. Made when absent.");
ABSL_FLAG(std::string, listen, "0.0.0.0:50053", "Where queries are taken, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9466", "Where metrics are served, host:port; port 0 takes a free one.");
ABSL_FLAG(
    absl::Duration, drain, absl::Seconds(10),
    "How long answers in flight have to come in after SIGTERM; those that do not are asked again at the next start.");
ABSL_FLAG(std::vector<std::string>, ask_again, {},
          "Outcomes, of failed, unparsable and abstained: queries that ended so are asked again at the start.");

namespace sibyl::annotator {
namespace {

absl::StatusOr<std::vector<v1::Outcome>> OutcomesToAskAgain() {
  std::vector<v1::Outcome> outcomes;
  for (const std::string& name : absl::GetFlag(FLAGS_ask_again)) {
    if (name == "failed") {
      outcomes.push_back(v1::OUTCOME_FAILED);
    } else if (name == "unparsable") {
      outcomes.push_back(v1::OUTCOME_UNPARSABLE);
    } else if (name == "abstained") {
      outcomes.push_back(v1::OUTCOME_ABSTAINED);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--ask_again has `", name, "`, may have failed, unparsable and abstained"));
    }
  }
  return outcomes;
}

// The judge's queries in the log. The judge must outlive what is given.
LogJudge MakeLogJudge(const Judge& judge) {
  return {.identity = JudgeIdentity(judge),
          .version_1_identity = absl::StrJoin({judge.name(), judge.prompt(), judge.sampling()}, "\n"),
          .key = [&judge](const v1::Query& query) {
            return CheckQuery(query).ok() && judge.Check(query).ok() ? QueryKey(query, judge) : std::string();
          }};
}

// The prompt must not ask the other question than the reward model's.
absl::Status CheckPromptKind(const v1::Experiment& experiment) {
  SIBYL_ASSIGN_OR_RETURN(const Prompt prompt, Prompt::Load(experiment.annotator().openai().prompt_file()));
  const bool ranking = experiment.reward_model().kind() == v1::REWARD_MODEL_KIND_RANKING;
  if (prompt.kind() != (ranking ? "classify" : "compare")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "config: annotator.openai.prompt_file is ", experiment.annotator().openai().prompt_file(), ", which ",
      ranking ? "asks about one caption; REWARD_MODEL_KIND_RANKING needs one with {first} and {second}"
              : "compares two captions; only REWARD_MODEL_KIND_RANKING does, else take one with {caption}"));
}

absl::StatusOr<std::unique_ptr<Judge>> MakeJudge(const v1::Experiment& experiment, Metrics& metrics) {
  const v1::AnnotatorConfig& config = experiment.annotator();
  const auto& labels = experiment.reward_model().label_set();
  if (config.judge() == v1::JUDGE_KIND_OPENAI) {
    SIBYL_RETURN_IF_ERROR(CheckPromptKind(experiment));
    return OpenAiJudge::ByPrompt(config.openai(), metrics, Clock::Real());
  }
  if (config.judge() == v1::JUDGE_KIND_SIMILARITY) {
    if (config.openai().url().empty()) return std::make_unique<LettersJudge>();
    return OpenAiJudge::BySimilarity(config.openai(), metrics, Clock::Real());
  }
  if (config.rules_file().empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.rules_file is not set, must be a file of rules, e.g. "
        "configs/rules/minigrid.rules");
  }
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<Judge> judge,
                         RulesJudge::Load(config.rules_file(), {labels.begin(), labels.end()}, config.rules_noise()));
  if (config.rules_seconds() == 0) return judge;
  return std::make_unique<DelayedJudge>(std::move(judge), absl::Seconds(config.rules_seconds()));
}

absl::Status Run(const std::vector<std::string>& overrides, Shutdown& shutdown) {
  if (absl::GetFlag(FLAGS_config).empty()) {
    return absl::InvalidArgumentError("--config is not set; name the experiment's configuration file");
  }
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment experiment, LoadExperiment(absl::GetFlag(FLAGS_config), overrides));
  const v1::AnnotatorConfig& config = experiment.annotator();
  SIBYL_ASSIGN_OR_RETURN(const std::vector<v1::Outcome> ask_again, OutcomesToAskAgain());

  Metrics metrics;
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<Judge> judge, MakeJudge(experiment, metrics));
  spdlog::info("judge {}{}", judge->name(), judge->prompt().empty() ? "" : absl::StrCat(", prompt ", judge->prompt()));

  const std::filesystem::path run_dir = absl::GetFlag(FLAGS_run_dir);
  std::error_code error;
  std::filesystem::create_directories(run_dir, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make the run folder ", run_dir.string(), ": ", error.message()));
  }
  SqliteLabelLogOptions options;
  options.path = (run_dir / config.store()).string();
  options.judge = MakeLogJudge(*judge);
  options.capacity = config.queue_capacity();
  SIBYL_ASSIGN_OR_RETURN(auto log, SqliteLabelLog::Open(options, Clock::Real(), metrics,
                                                        [&](absl::Status reason) { shutdown.Fail(reason); }));
  spdlog::info("label store {}: log {}, {} labels, {} queries wait", options.path, log->log_id(), log->last_sequence(),
               log->waiting());

  Service service(metrics);
  Annotator annotator(std::move(judge), std::move(log), config.queue_capacity(), metrics, [&] { service.OnLabel(); });
  service.Serve(annotator);
  if (!ask_again.empty()) annotator.AskAgain(ask_again);
  SIBYL_RETURN_IF_ERROR(metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  SIBYL_ASSIGN_OR_RETURN(const auto server, rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&service}));

  while (!shutdown.WaitFor(absl::Hours(1))) {
  }
  server->SetServing(false);
  const bool failed = !shutdown.reason().ok();
  const int dropped = annotator.Drain(failed ? absl::ZeroDuration() : absl::GetFlag(FLAGS_drain));
  if (dropped > 0)
    spdlog::warn("{} queries were not answered in time; they are asked again at the next start", dropped);
  service.CloseStreams();
  server->Drain(absl::Seconds(2));
  return annotator.Close();
}

}  // namespace
}  // namespace sibyl::annotator

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Answers queries about captions: sibyl-annotator --config=FILE [--set field=value ...] [--run_dir=DIR]");
  const std::vector<std::string> overrides = sibyl::TakeOverrides(&argc, argv);
  sibyl::Shutdown shutdown;
  sibyl::InitLog("annotator");
  const auto rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    spdlog::error("`{}` is not a flag; see --help", rest[1]);
    return 2;
  }
  if (const absl::Status status = sibyl::annotator::Run(overrides, shutdown); !status.ok()) {
    spdlog::error("{}", status.message());
    return 1;
  }
  return shutdown.ExitCode();
}
