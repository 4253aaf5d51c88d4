// sibyl-reward-model: captions and counts in, queries to the annotator, scores out.

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc/server.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"
#include "reward_model/annotator_client.h"
#include "reward_model/annotator_link.h"
#include "reward_model/checkpoint.h"
#include "reward_model/coordinator.h"
#include "reward_model/scoring/learned_model.h"
#include "reward_model/scoring/learning.h"
#include "reward_model/scoring/retrieval.h"
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
// A tick or a piece of learning that takes longer hangs.
constexpr absl::Duration kHangs = absl::Minutes(1);

absl::Status Required(const char* flag, const std::string& value, const char* what) {
  if (!value.empty()) return absl::OkStatus();
  return UsageError(absl::InvalidArgumentError(absl::StrCat("--", flag, " is not set; give ", what)));
}

absl::Status Run(Program& program) {
  const std::string run_dir = absl::GetFlag(FLAGS_run_dir), annotator = absl::GetFlag(FLAGS_annotator);
  SIBYL_RETURN_IF_ERROR(Required("config", absl::GetFlag(FLAGS_config), "the configuration file"));
  SIBYL_RETURN_IF_ERROR(Required("run_dir", run_dir, "the run's folder"));
  const absl::StatusOr<v1::Experiment> loaded = LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides);
  if (!loaded.ok()) return UsageError(loaded.status());
  const v1::Experiment& experiment = *loaded;
  const bool frozen = !experiment.reward_model().weights_file().empty();
  if (!frozen) {
    SIBYL_RETURN_IF_ERROR(Required("annotator", annotator, "the annotator's address, e.g. 127.0.0.1:50053"));
  }
  if (experiment.reward_model().goal().empty()) {
    return UsageError(absl::InvalidArgumentError("config: reward_model.goal is not set, must be the goal in words"));
  }
  SIBYL_RETURN_IF_ERROR(program.files.MakeFolders(run_dir));

  std::unique_ptr<ScoreModel> score_model;
  LearnedModel* learned = nullptr;  // where the kind is one that learns
  if (experiment.reward_model().kind() == v1::REWARD_MODEL_KIND_RETRIEVAL) {
    score_model = std::make_unique<Retrieval>(experiment.reward_model());
  } else {
    score_model =
        std::make_unique<LearnedModel>(experiment.reward_model(), experiment.seed(), program.clock, program.metrics);
    learned = static_cast<LearnedModel*>(score_model.get());
  }
  Coordinator coordinator(experiment, std::move(score_model), FreshRandom64(), program.clock, program.metrics);
  SIBYL_ASSIGN_OR_RETURN(
      const std::optional<v1::RewardModelHead> head,
      ReadCheckpoint(run_dir, program.files, [&](const v1::RewardModelPiece& piece) { coordinator.Restore(piece); }));
  if (head.has_value()) {
    SIBYL_RETURN_IF_ERROR(coordinator.FinishRestore(*head));
    spdlog::info("going on with run {}, label log from {}", head->run_id(), head->next_sequence());
  }
  if (head.has_value() || frozen) SIBYL_RETURN_IF_ERROR(coordinator.score_model().Load(run_dir));
  SIBYL_RETURN_IF_ERROR(program.metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  Service service(coordinator);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                         rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&service}));
  program.heartbeats.OnHealth([&](bool healthy) { server->SetServing(healthy); });
  Checkpointer checkpointer(coordinator, run_dir, absl::Seconds(experiment.reward_model().checkpoint_seconds()),
                            program.clock, program.files, program.heartbeats, program.fail());
  {
    std::optional<Worker> learning;
    if (learned != nullptr) {
      learning.emplace(
          "learning",
          [&](const std::stop_token& stop) { return Learn(*learned, program.clock, program.heartbeats, stop); },
          program.fail());
    }
    std::optional<AnnotatorClient> source;
    std::optional<AnnotatorLink> link;
    if (!frozen) {
      source.emplace(annotator);
      link.emplace(coordinator, *source, annotator, FreshRandom64(), program.clock, program.heartbeats,
                   program.fail());
    }
    const std::unique_ptr<Heartbeat> heartbeat = program.heartbeats.Add("tick", kHangs);
    while (!WaitForStop(program.stop(), program.clock, kTickPeriod)) {
      heartbeat->Beat();
      coordinator.Tick();
    }

    // The order of the end: the learner first, so that nothing new comes in; then (with `link`) the annotator's threads
    // and (with `learning`) what learns; then the last checkpoint, of what is final now.
    program.heartbeats.OnHealth(nullptr);
    server->SetServing(false);
    coordinator.Drain();
  }
  server->Drain(absl::Seconds(5));
  return checkpointer.Close();
}

}  // namespace
}  // namespace sibyl::reward_model

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"reward-model",
                         "Scores captions for a learner:\n  sibyl-reward-model --config=FILE [--set field=value ...] "
                         "--annotator=host:port --run_dir=DIR [--listen=host:port] [--metrics_listen=host:port]",
                         /*takes_overrides=*/true},
                        sibyl::reward_model::Run);
}
