// sibyl-reward-model: captions and counts in, queries to the annotator, scores out.

#include <filesystem>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "common/runtime/clock.h"
#include "common/config.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc/server.h"
#include "common/shutdown.h"
#include "common/status_macros.h"
#include "reward_model/annotator_client.h"
#include "reward_model/annotator_link.h"
#include "reward_model/checkpoint.h"
#include "reward_model/scoring/learned_model.h"
#include "reward_model/scoring/learning_thread.h"
#include "reward_model/scoring/retrieval.h"
#include "reward_model/coordinator.h"
#include "reward_model/service.h"

ABSL_FLAG(std::string, config, "", "The experiment, protobuf text format. Required.");
ABSL_FLAG(std::string, annotator, "",
          "Address of the annotator, host:port. Required, but with reward_model.weights_file.");
ABSL_FLAG(std::string, run_dir, "", "Folder of the run; the checkpoint is kept there. Required.");
ABSL_FLAG(std::string, listen, "0.0.0.0:50052", "Where learners connect, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9465", "Where metrics are served, host:port; port 0 takes a free one.");

namespace sibyl::reward_model {
namespace {

constexpr absl::Duration kTickPeriod = absl::Milliseconds(50);

absl::Status Required(const char* flag, const std::string& value, const char* what) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " is not set; give ", what));
}

absl::Status Run(const std::vector<std::string>& overrides, Shutdown& shutdown) {
  const std::string run_dir = absl::GetFlag(FLAGS_run_dir), annotator = absl::GetFlag(FLAGS_annotator);
  SIBYL_RETURN_IF_ERROR(Required("config", absl::GetFlag(FLAGS_config), "the configuration file"));
  SIBYL_RETURN_IF_ERROR(Required("run_dir", run_dir, "the run's folder"));
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment experiment, LoadExperiment(absl::GetFlag(FLAGS_config), overrides));
  const bool frozen = !experiment.reward_model().weights_file().empty();
  if (!frozen) {
    SIBYL_RETURN_IF_ERROR(Required("annotator", annotator, "the annotator's address, e.g. 127.0.0.1:50053"));
  }
  if (experiment.reward_model().goal().empty()) {
    return absl::InvalidArgumentError("config: reward_model.goal is not set, must be the goal in words");
  }
  std::error_code error;
  std::filesystem::create_directories(run_dir, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make folder ", run_dir, ": ", error.message()));

  Metrics metrics;
  std::unique_ptr<ScoreModel> score_model;
  LearnedModel* learned = nullptr;  // where the kind is one that learns
  if (experiment.reward_model().kind() == v1::REWARD_MODEL_KIND_RETRIEVAL) {
    score_model = std::make_unique<Retrieval>(experiment.reward_model());
  } else {
    score_model = std::make_unique<LearnedModel>(experiment.reward_model(), experiment.seed(), Clock::Real(), metrics);
    learned = static_cast<LearnedModel*>(score_model.get());
  }
  Coordinator model(experiment, std::move(score_model), FreshRandom64(), Clock::Real(), metrics);
  SIBYL_ASSIGN_OR_RETURN(const std::optional<v1::RewardModelState> checkpoint, ReadCheckpoint(run_dir));
  if (checkpoint.has_value()) {
    SIBYL_RETURN_IF_ERROR(model.Restore(*checkpoint));
    spdlog::info("going on with run {}: {} captions, label log from {}", checkpoint->run_id(),
                 checkpoint->captions_size(), checkpoint->next_sequence());
  }
  if (checkpoint.has_value() || frozen) SIBYL_RETURN_IF_ERROR(model.score_model().Load(run_dir));
  SIBYL_RETURN_IF_ERROR(metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  Service service(model);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                         rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&service}));
  Checkpointer checkpointer(model, run_dir, absl::Seconds(experiment.reward_model().checkpoint_seconds()), shutdown);
  {
    std::optional<LearningThread> learning;
    if (learned != nullptr) learning.emplace(*learned, shutdown);
    std::optional<AnnotatorClient> source;
    std::optional<AnnotatorLink> link;
    if (!frozen) {
      source.emplace(annotator);
      link.emplace(model, *source, shutdown, annotator, FreshRandom64());
    }
    while (!shutdown.WaitFor(kTickPeriod)) model.Tick();

    // The order of going down: the learner first, so that nothing new comes in; then (with `link`) the annotator's
    // threads and (with `learning`) what learns; then the last checkpoint, of what is final now.
    server->SetServing(false);
    model.Drain();
  }
  server->Drain(absl::Seconds(5));
  return checkpointer.Write();
}

}  // namespace
}  // namespace sibyl::reward_model

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Scores captions for a learner:\n  sibyl-reward-model --config=FILE [--set field=value ...] "
      "--annotator=host:port "
      "--run_dir=DIR [--listen=host:port] [--metrics_listen=host:port]");
  sibyl::Shutdown shutdown;
  sibyl::InitLog("reward-model");
  const std::vector<std::string> overrides = sibyl::TakeOverrides(&argc, argv);
  const auto rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    spdlog::error("unexpected argument `{}`", rest[1]);
    return 2;
  }
  const absl::Status status = sibyl::reward_model::Run(overrides, shutdown);
  if (!status.ok()) spdlog::error("{}", status.ToString());
  const int stopped_because = shutdown.ExitCode();
  return status.ok() ? stopped_because : 1;
}
