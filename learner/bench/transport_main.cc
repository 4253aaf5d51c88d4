// sibyl-bench-learner: the learner's side of the Act stream with nothing behind it, for `sibyl bench transport`.
// Streams, slots, inference, unrolls and captions are the learner's own; the policy computes nothing, and finished
// unrolls are given back as training gives them back, unread.

#include <thread>

#include "absl/flags/flag.h"
#include "common/action_spec.h"
#include "common/config.h"
#include "common/feedback.h"
#include "common/log.h"
#include "common/rpc/server.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/runtime/worker.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "learner/serving/act_service.h"
#include "learner/sizes.h"
#include "policy/memory.h"
#include "policy/torch.h"

ABSL_FLAG(std::string, config, "", "Configuration file (Experiment, text format). Required.");
ABSL_FLAG(std::string, run_dir, "", "Folder for episodes.pb. Required.");
ABSL_FLAG(std::string, listen, "127.0.0.1:0", "Where actors connect, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:0", "Where metrics are served, host:port; port 0 takes a free one.");

namespace sibyl::learner {
namespace {

// All actions alike, at no cost.
class NullPolicy : public Policy {
 public:
  explicit NullPolicy(const v1::EnvironmentSpec& spec) : Policy(spec) {}

  PolicyOutput Forward(const Observations&, const torch::Tensor& first, const torch::Tensor&) override {
    const int64_t rows = first.size(1);
    if (rows > action_.size(1)) {
      action_ = torch::zeros({1, rows, distribution_.parameters()});
      value_ = torch::zeros({1, rows, 1});
      states_ = torch::zeros({1, rows, 0});
    }
    const torch::Tensor value = value_.narrow(1, 0, rows);
    return {action_.narrow(1, 0, rows), value.unsqueeze(-1), value, states_.narrow(1, 0, rows)};
  }
  int64_t state_size() const override { return 0; }

 private:
  // Of the largest batch so far. Inference is the only caller.
  torch::Tensor action_ = torch::zeros({1, 0, 0}), value_, states_;
};

// What training does with unrolls, less the training. Until the pool is closed.
void GiveBack(int unrolls_a_batch, UnrollPool& unrolls, CaptionTable& captions) {
  NameThread("give-back");
  Unrolls finished;
  while (unrolls.PopFinished(unrolls_a_batch, &finished)) {
    for (const auto& unroll : finished) {
      captions.Unpin(unroll->CaptionRows(static_cast<int>(unroll->log_prob.size())));
    }
    unrolls.Release(std::move(finished));
  }
}

absl::Status Serve(Program& program) {
  if (absl::GetFlag(FLAGS_config).empty() || absl::GetFlag(FLAGS_run_dir).empty()) {
    return UsageError(
        absl::InvalidArgumentError("--config and --run_dir are required; `sibyl bench transport` sets them"));
  }
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment experiment, LoadExperiment(absl::GetFlag(FLAGS_config), {}));
  EnvironmentOptions options;
  options.max_episode_steps = experiment.environment().max_episode_steps();
  SIBYL_ASSIGN_OR_RETURN(const v1::EnvironmentSpec spec, FindEnvironmentSpec(experiment.environment().name(), options));
  PolicyStore policies(std::make_shared<NullPolicy>(spec), nullptr);
  Metrics& metrics = program.metrics;
  SIBYL_RETURN_IF_ERROR(metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  CaptionTable captions(experiment.learner().max_captions(), experiment.learner().max_caption_bytes());
  EpisodeStats episodes(static_cast<int>(experiment.learner().episode_window()),
                        {spec.figures().begin(), spec.figures().end()});
  UnrollPool unrolls({static_cast<int>(experiment.learner().unroll_length()),
                      ObservationBytes(Feedback(experiment, spec).PolicySpec()), ActionBytes(spec.action())},
                     /*capacity=*/0, &program.clock);  // ActorStreams fits it to the actors that come
  SIBYL_ASSIGN_OR_RETURN(
      const std::unique_ptr<Slots> slots,
      Slots::Open(static_cast<int>(experiment.learner().max_actors()), absl::GetFlag(FLAGS_run_dir) + "/episodes.pb"));
  StepCounter steps(0, &metrics);
  Inference inference(experiment, spec, torch::kCPU, experiment.seed(), &policies,
                      {&unrolls, &captions, &episodes, &steps}, &program.clock, &program.heartbeats, &metrics);
  ActorStreams streams(experiment, spec, "bench", slots.get(), &unrolls, &program.clock, &metrics);
  ActService service(&streams, &inference, &captions);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                         rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&service}));
  Worker inference_worker(
      "inference",
      [&](const std::stop_token&) {
        at::set_num_threads(1);
        return inference.Run();
      },
      program.fail());
  Worker give_back_worker(
      "give-back",
      [&](const std::stop_token&) {
        GiveBack(UnrollsPerBatch(experiment.learner()), unrolls, captions);
        return absl::OkStatus();
      },
      program.fail());
  while (!WaitForStop(program.stop(), program.clock, absl::Seconds(1))) streams.CloseSilent();
  streams.CloseAll();
  inference.Close();
  inference_worker.Join();
  unrolls.Close();
  give_back_worker.Join();
  server->Drain(absl::Seconds(2));
  return absl::OkStatus();
}

}  // namespace
}  // namespace sibyl::learner

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::RunMain(argc, argv,
                        {"bench", "Takes what actors send, as the learner does, and trains nothing: see sibyl bench"},
                        sibyl::learner::Serve);
}
