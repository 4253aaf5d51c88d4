// sibyl-bench-limit: how fast LibTorch alone could act and train for a configuration, with everything else at no cost.
// `sibyl bench train` runs it after a run, and prints what share of this the run reached.
//
// Observations are real ones, of random play; weights are fresh. Inference is measured as several batches side by side,
// one a core, which is faster than one batch on all cores; training as the trainer does it, with the threads that the
// configuration gives it.

#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/config.h"
#include "common/cores.h"
#include "common/feedback.h"
#include "common/log.h"
#include "common/random.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "learner/sizes.h"
#include "learner/training/trainer.h"
#include "policy/device.h"
#include "policy/memory.h"
#include "policy/observation_tensor.h"
#include "policy/torch.h"
#include "policy/value_heads.h"

ABSL_FLAG(std::string, config, "", "Configuration file (Experiment, text format). Required.");
ABSL_FLAG(int, rows, 64, "Rows of an inference batch.");
ABSL_FLAG(double, seconds, 2, "Time of each of the two measurements.");

namespace sibyl::learner {
namespace {

constexpr int kStepsBefore = 200;  // of random play, so that there is something to see

// [T, B, ...] of B environments that play at random, and which observations start an episode: [T, B]. What a policy is
// told of its last step stays 0.
absl::StatusOr<std::pair<Observations, torch::Tensor>> RandomPlay(const v1::Experiment& experiment,
                                                                  const v1::EnvironmentSpec& spec, int64_t T,
                                                                  int64_t B) {
  Observations observations;
  for (const auto& array : spec.observation()) {
    observations.push_back(torch::zeros(BatchedShape(array, {T, B}), ToScalarType(array.dtype())));
  }
  torch::Tensor first = torch::zeros({T, B}, torch::kBool);
  EnvironmentOptions options;
  options.max_episode_steps = experiment.environment().max_episode_steps();
  Random random(1);
  std::string action(ActionBytes(spec.action()), '\0');
  for (int64_t b = 0; b < B; ++b) {
    SIBYL_ASSIGN_OR_RETURN(const auto environment, MakeEnvironment(experiment.environment().name(), options));
    const auto buffers = [&](int64_t t) {
      std::vector<void*> arrays;
      for (const torch::Tensor& array : observations) arrays.push_back(array.select(0, t).select(0, b).data_ptr());
      return arrays;
    };
    uint64_t seed = static_cast<uint64_t>(b) << 32;
    bool starts = true;
    for (int64_t t = -kStepsBefore; t < T; ++t) {
      const std::vector<void*> arrays = buffers(std::max<int64_t>(t, 0));
      if (t >= 0) first[t][b] = starts;
      if (starts) {
        SIBYL_RETURN_IF_ERROR(environment->Reset(seed++, arrays));
        starts = false;
        continue;
      }
      RandomAction(spec.action(), random, action.data());
      SIBYL_ASSIGN_OR_RETURN(const StepResult result, environment->Step(ActionView(action.data()), arrays));
      starts = result.terminated || result.truncated;
    }
  }
  return std::pair(std::move(observations), std::move(first));
}

double InferenceRows(Policy& policy, const Observations& observations, const torch::Tensor& first, int cores,
                     double seconds, const Program& program) {
  const int64_t rows = first.size(1);
  const torch::Tensor state =
      torch::zeros({rows, policy.state_size()}, torch::TensorOptions(policy.parameters()[0].device()));
  std::atomic<int64_t> done = 0;
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < cores; ++i) {
    threads.emplace_back([&] {
      NameThread("inference");
      at::set_num_threads(1);
      torch::NoGradGuard no_grad;
      while (!stop) {
        policy.distribution().ForDrawing(policy.Forward(observations, first, state).action[0]);
        done += rows;
      }
    });
  }
  WaitForStop(program.stop(), program.clock, absl::Seconds(seconds));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(done) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

absl::StatusOr<double> TrainingSteps(Trainer& trainer, const TrainingBatch& batch, double seconds,
                                     const Program& program) {
  SIBYL_RETURN_IF_ERROR(trainer.Update(batch).status());  // takes its memory
  const auto begin = std::chrono::steady_clock::now();
  double steps = 0, passed = 0;
  while (passed < seconds && !program.stop().stop_requested()) {
    SIBYL_RETURN_IF_ERROR(trainer.Update(batch).status());
    steps += static_cast<double>(batch.reward.numel());
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return steps / passed;
}

absl::Status Measure(const Program& program) {
  if (absl::GetFlag(FLAGS_config).empty()) return absl::InvalidArgumentError("--config is not set; name a file");
  SIBYL_ASSIGN_OR_RETURN(v1::Experiment experiment, LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides));
  const int rows = absl::GetFlag(FLAGS_rows);
  if (rows < 1) return absl::InvalidArgumentError(absl::StrCat("--rows is ", rows, ", must be at least 1"));
  const int cores = AvailableCores();
  const double seconds = absl::GetFlag(FLAGS_seconds);
  EnvironmentOptions options;
  options.max_episode_steps = experiment.environment().max_episode_steps();
  SIBYL_ASSIGN_OR_RETURN(const v1::EnvironmentSpec played_spec,
                         FindEnvironmentSpec(experiment.environment().name(), options));
  const v1::EnvironmentSpec spec = Feedback(experiment, played_spec).PolicySpec();
  SIBYL_ASSIGN_OR_RETURN(const torch::Device device, FindDevice(experiment.learner().device()));
  SIBYL_ASSIGN_OR_RETURN(const auto policy, MakePolicy(experiment.policy(), spec, experiment.reward()));
  if (experiment.policy().precision() == v1::PRECISION_BFLOAT16) policy->UseBfloat16();
  policy->to(device);
  at::set_num_threads(1);

  const auto on_device = [&](const Observations& arrays) {
    Observations moved;
    for (const torch::Tensor& array : arrays) moved.push_back(array.to(device));
    return moved;
  };
  SIBYL_ASSIGN_OR_RETURN(const auto seen, RandomPlay(experiment, spec, 1, rows));
  const double inference =
      InferenceRows(*policy, on_device(seen.first), seen.second.to(device), cores, seconds, program);

  v1::LearnerConfig config = experiment.learner();
  config.set_training_threads(static_cast<uint32_t>(TrainingThreads(config)));
  const int64_t T = config.unroll_length(), B = UnrollsPerBatch(config);
  SIBYL_ASSIGN_OR_RETURN(const auto played, RandomPlay(experiment, spec, T + 1, B));
  TrainingBatch batch;
  batch.observation = on_device(played.first);
  batch.first = played.second;
  batch.state = torch::zeros({B, policy->state_size()});
  // The first choice of each part, or the middle of the box.
  batch.action =
      torch::zeros({T, B, policy->distribution().numbers()}, spec.action().has_box() ? torch::kFloat32 : torch::kInt64);
  batch.behaviour_log_prob = torch::full({T, B}, -std::log(static_cast<double>(policy->distribution().parameters())));
  const int64_t V = ValueCount(experiment.policy(), experiment.reward());
  batch.behaviour_value = torch::zeros({T, B, V});
  batch.reward = torch::randn({T, B, V});
  batch.terminated = played.second.slice(0, 1);
  batch.truncated = torch::zeros({T, B}, torch::kBool);
  batch.valid = torch::ones({T, B}, torch::kBool);
  batch.final_step = batch.final_unroll = torch::empty({0}, torch::kInt64);
  for (const torch::Tensor& array : played.first) batch.final_observation.push_back(array[0].slice(0, 0, 0).to(device));
  for (torch::Tensor* tensor :
       {&batch.first, &batch.state, &batch.action, &batch.behaviour_log_prob, &batch.behaviour_value, &batch.reward,
        &batch.terminated, &batch.truncated, &batch.valid, &batch.final_step, &batch.final_unroll}) {
    *tensor = tensor->to(device);
  }
  Trainer trainer(config, policy);
  SIBYL_ASSIGN_OR_RETURN(const double training, TrainingSteps(trainer, batch, seconds, program));
  if (program.stop().stop_requested()) return absl::OkStatus();  // a measurement that was cut short says nothing
  const nlohmann::ordered_json line = {
      {"inference_rows_per_second", inference}, {"training_steps_per_second", training}, {"cores", cores}};
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

// Errors of flags and configuration are the user's.
absl::Status Run(Program& program) {
  const absl::Status status = Measure(program);
  return absl::IsInvalidArgument(status) ? UsageError(status) : status;
}

}  // namespace
}  // namespace sibyl::learner

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::RunMain(
      argc, argv,
      {"bench-limit", "How fast LibTorch alone could be: sibyl-bench-limit --config=FILE [--set field=value]",
       /*takes_overrides=*/true},
      sibyl::learner::Run);
}
