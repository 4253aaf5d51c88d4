// sibyl-annotator: takes queries, has a judge answer them, keeps the labels.

#include <filesystem>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/judges/delayed_judge.h"
#include "annotator/judges/embedded.h"
#include "annotator/judges/openai_judge.h"
#include "annotator/judges/prompt.h"
#include "annotator/judges/query_key.h"
#include "annotator/judges/rules_judge.h"
#include "annotator/quality/gold.h"
#include "annotator/serving/annotator.h"
#include "annotator/serving/service.h"
#include "annotator/store/open_log.h"
#include "common/config.h"
#include "common/log.h"
#include "common/rpc/server.h"
#include "common/runtime/files.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

ABSL_FLAG(std::string, config, "", "Configuration of the experiment, a sibyl.v1.Experiment in text format. Required.");
ABSL_FLAG(std::string, run_dir, ".", "Folder of the run; annotator.store is relative to it. Made when absent.");
ABSL_FLAG(std::string, listen, "0.0.0.0:50053", "Where queries are taken, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9466", "Where metrics are served, host:port; port 0 takes a free one.");
ABSL_FLAG(
    absl::Duration, drain, absl::Seconds(10),
    "How long answers in flight have to come in after SIGTERM; those that do not are asked again at the next start.");
ABSL_FLAG(std::string, llm, "",
          "Where the model that runs beside training is served, host:port: the sibyl-llm-server of JUDGE_KIND_EMBEDDED "
          "or the sibyl-encoder-server of JUDGE_KIND_SIMILARITY.");
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
          .prompt = judge.prompt(),
          .key = [&judge](const v1::Query& query, const std::string& served) {
            return CheckQuery(query).ok() && judge.Check(query).ok() ? QueryKey(query, judge, served) : std::string();
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

absl::StatusOr<std::unique_ptr<Judge>> MakeJudge(const v1::Experiment& experiment, const Host& host) {
  const v1::AnnotatorConfig& config = experiment.annotator();
  const auto& labels = experiment.reward_model().label_set();
  if (config.judge() != v1::JUDGE_KIND_RULES) {
    const bool embedded = RunsBesideTraining(config);
    const std::string address = absl::GetFlag(FLAGS_llm);
    if (embedded && address.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "annotator.judge is ", v1::JudgeKind_Name(config.judge()),
          ", and --llm is not set; name the address of a sibyl-llm-server (for SIMILARITY a sibyl-encoder-server), or "
          "let `sibyl train` start both"));
    }
    const v1::OpenAiConfig server = embedded ? EmbeddedServer(config, address) : config.openai();
    if (config.judge() == v1::JUDGE_KIND_SIMILARITY) return OpenAiJudge::BySimilarity(server, host);
    SIBYL_RETURN_IF_ERROR(CheckPromptKind(experiment));
    return OpenAiJudge::ByPrompt(server, host);
  }
  if (config.rules_file().empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.rules_file is not set, must be a file of rules, e.g. "
        "configs/rules/minigrid.rules");
  }
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<Judge> judge,
                         RulesJudge::Load(config.rules_file(), {labels.begin(), labels.end()}, config.rules_noise()));
  if (config.rules_seconds() == 0) return judge;
  return std::make_unique<DelayedJudge>(std::move(judge), absl::Seconds(config.rules_seconds()), host);
}

// Captions whose label is known; none without annotator.gold_file.
absl::StatusOr<std::vector<GoldItem>> LoadGold(const v1::Experiment& experiment) {
  const std::string& file = experiment.annotator().gold_file();
  const auto& labels = experiment.reward_model().label_set();
  if (file.empty()) return std::vector<GoldItem>();
  return ReadGold(file, labels[0], labels[labels.size() - 1]);
}

// Asks about the gold captions. Those that have been answered under the present identity cost nothing.
void AskAboutGold(const std::vector<GoldItem>& gold, const v1::Experiment& experiment, Annotator& annotator) {
  for (size_t begin = 0; begin < gold.size(); begin += kMaxQueriesAnAsk) {
    v1::AskRequest request;
    for (size_t i = begin; i < std::min(gold.size(), begin + kMaxQueriesAnAsk); ++i) {
      v1::Query& query = *request.add_queries();
      query.set_kind("classify");
      (*query.mutable_texts())["caption"] = gold[i].caption;
      query.set_goal(gold[i].goal);
      *query.mutable_grammar()->mutable_choice()->mutable_labels() = experiment.reward_model().label_set();
    }
    annotator.Ask(request, [](const absl::StatusOr<v1::AskResponse>& response) {
      if (!response.ok())
        spdlog::warn("the captions of annotator.gold_file are not asked about: {}", response.status().message());
    });
  }
}

absl::Status Run(Program& program) {
  if (absl::GetFlag(FLAGS_config).empty()) {
    return UsageError(absl::InvalidArgumentError("--config is not set; name the experiment's configuration file"));
  }
  absl::StatusOr<v1::Experiment> experiment = LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides);
  if (!experiment.ok()) return UsageError(experiment.status());
  const v1::AnnotatorConfig& config = experiment->annotator();
  const absl::StatusOr<std::vector<v1::Outcome>> ask_again = OutcomesToAskAgain();
  if (!ask_again.ok()) return UsageError(ask_again.status());
  const absl::StatusOr<std::vector<GoldItem>> gold = LoadGold(*experiment);
  if (!gold.ok()) return UsageError(gold.status());

  const Host host = {program.clock, program.metrics, program.heartbeats, program.fail()};
  absl::StatusOr<std::unique_ptr<Judge>> judge = MakeJudge(*experiment, host);
  if (!judge.ok()) return UsageError(judge.status());
  const std::string prompt = (*judge)->prompt();
  spdlog::info("judge {}{}", (*judge)->name(), prompt.empty() ? "" : absl::StrCat(", prompt ", prompt));

  const std::string run_dir = absl::GetFlag(FLAGS_run_dir);
  SIBYL_RETURN_IF_ERROR(program.files.MakeFolders(run_dir));
  LogOptions options;
  const bool shared = IsPostgres(config.store());
  options.store = shared ? config.store() : (std::filesystem::path(run_dir) / config.store()).string();
  options.judge = MakeLogJudge(**judge);
  options.capacity = config.queue_capacity();
  options.run = std::filesystem::absolute(run_dir).lexically_normal().filename().string();
  options.files = &program.files;
  SIBYL_ASSIGN_OR_RETURN(auto log, OpenLog(options, host));
  spdlog::info("label store {}: log {}, {} labels, {} queries wait", shared ? "in PostgreSQL" : options.store,
               log->log_id(), log->last_sequence(), log->waiting());

  Service service(host);
  Annotator annotator(
      *std::move(judge), std::move(log), config.queue_capacity(), host, [&] { service.OnLabel(); }, *gold);
  service.Serve(annotator);
  if (!ask_again->empty()) {
    v1::EditRequest request;
    for (const v1::Outcome outcome : *ask_again) request.mutable_retry()->add_outcomes(outcome);
    annotator.Edit(request, [](const absl::StatusOr<v1::EditResponse>& response) {
      if (response.ok()) spdlog::info("{} queries that got no answer are asked again", response->changed());
    });
  }
  SIBYL_RETURN_IF_ERROR(program.metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  SIBYL_ASSIGN_OR_RETURN(const auto server, rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&service}));
  program.heartbeats.OnHealth([&](bool healthy) { server->SetServing(healthy); });
  // Where `sibyl labels` finds the annotator that has the store open.
  const std::string address_file = shared ? "" : options.store + ".address";
  if (!shared) {
    SIBYL_RETURN_IF_ERROR(WriteFileDurably(address_file, absl::StrCat("127.0.0.1:", server->port(), "\n")));
  }

  // Again each hour: another model behind the server is another identity.
  do {
    AskAboutGold(*gold, *experiment, annotator);
  } while (!WaitForStop(program.stop(), program.clock, absl::Hours(1)));
  // No new calls; then the answers in flight; then the streams, which send them; then the log.
  program.heartbeats.OnHealth(nullptr);
  server->SetServing(false);
  const bool failed = !program.ending.failure().ok();
  const int dropped = annotator.Drain(failed ? absl::ZeroDuration() : absl::GetFlag(FLAGS_drain));
  if (dropped > 0) {
    spdlog::warn("{} queries were not answered in time; they are asked again at the next start", dropped);
  }
  service.CloseStreams();
  server->Drain(absl::Seconds(2));
  absl::Status status = annotator.Close();
  if (!shared) status.Update(program.files.Remove(address_file));
  return status;
}

}  // namespace
}  // namespace sibyl::annotator

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"annotator",
                         "Answers queries about captions: sibyl-annotator --config=FILE [--set field=value ...] "
                         "[--run_dir=DIR]",
                         /*takes_overrides=*/true},
                        sibyl::annotator::Run);
}
