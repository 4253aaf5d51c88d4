// Rows of inference and steps of training a second, of each network. SIBYL_BENCHMARK_THREADS: LibTorch's threads,
// default 2. Run by hand; ctest does not.

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>

#include "common/action_spec.h"
#include "learner/training/trainer.h"
#include "policy/memory.h"
#include "policy/torch.h"
#include "random_observations.h"

namespace sibyl {
namespace {

enum Network { kMlp, kMinigrid, kNetHack };

std::shared_ptr<Policy> MakeFloatNetwork(int64_t network) {
  torch::manual_seed(1);
  switch (network) {
    case kMlp:
      return *MakePolicy(PolicyOf(v1::POLICY_KIND_MLP), MinigridSpec());
    case kMinigrid:
      return *MakePolicy(PolicyOf(v1::POLICY_KIND_MINIGRID_CONV_GRU), MinigridSpec());
    default:
      return *MakePolicy(PolicyOf(v1::POLICY_KIND_NETHACK_ONI), NetHackSpec());
  }
}

// SIBYL_BENCHMARK_PRECISION=bfloat16 asks for that.
std::shared_ptr<Policy> MakeNetwork(int64_t network) {
  const auto policy = MakeFloatNetwork(network);
  const char* precision = std::getenv("SIBYL_BENCHMARK_PRECISION");
  if (precision != nullptr && std::strcmp(precision, "bfloat16") == 0) policy->UseBfloat16();
  return policy;
}

v1::EnvironmentSpec SpecOf(int64_t network) { return network == kNetHack ? NetHackSpec() : MinigridSpec(); }

// state.range(1): rows.
void Inference(benchmark::State& state) {
  const auto policy = MakeNetwork(state.range(0));
  const int64_t rows = state.range(1);
  const Observations observations = RandomObservations(SpecOf(state.range(0)), 1, rows);
  const torch::Tensor first = RandomFlags(1, rows, 50), before = torch::randn({rows, policy->state_size()});
  torch::NoGradGuard no_grad;
  for (auto _ : state) {
    const PolicyOutput output = policy->Forward(observations, first, before);
    benchmark::DoNotOptimize(output.action.data_ptr());
  }
  state.counters["rows/s"] =
      benchmark::Counter(static_cast<double>(rows * state.iterations()), benchmark::Counter::kIsRate);
}

// state.range(1): unrolls of 32 steps.
void Training(benchmark::State& state) {
  const auto policy = MakeNetwork(state.range(0));
  const v1::EnvironmentSpec spec = SpecOf(state.range(0));
  const int64_t T = 32, B = state.range(1);
  v1::LearnerConfig config;
  config.set_epochs(1);
  config.set_minibatches(1);
  config.set_training_threads(1);
  config.set_learning_rate(1e-4);
  config.set_final_learning_rate(1e-4);
  config.set_adam_epsilon(1e-6);
  config.set_gamma(0.99);
  config.set_vtrace_rho(1);
  config.set_vtrace_c(1);
  config.set_ppo_clip(0.1);
  config.set_min_advantage_deviation(1e-3);
  config.set_value_clip(1);
  config.set_value_coefficient(0.5);
  config.set_entropy_coefficient(0.003);
  config.set_max_gradient_norm(4);
  learner::Trainer trainer(config, policy);
  learner::TrainingBatch batch;
  batch.observation = RandomObservations(spec, T + 1, B);
  batch.first = RandomFlags(T + 1, B, 50);
  batch.state = torch::randn({B, policy->state_size()});
  batch.action = torch::randint(AllChoices(spec.action()), {T, B, 1});
  batch.behaviour_log_prob = torch::full({T, B}, -std::log(static_cast<float>(AllChoices(spec.action()))));
  batch.behaviour_value = torch::zeros({T, B, 1});
  batch.reward = torch::rand({T, B, 1});
  batch.terminated = batch.first.slice(0, 1);
  batch.truncated = torch::zeros_like(batch.terminated);
  batch.valid = torch::ones_like(batch.terminated);
  batch.final_observation = RandomObservations(spec, 1, 0);
  for (torch::Tensor& array : batch.final_observation) array = array[0];
  batch.final_step = batch.final_unroll = torch::empty({0}, torch::kInt64);
  for (auto _ : state) {
    if (const auto stats = trainer.Update(batch); !stats.ok()) state.SkipWithError(stats.status().ToString().c_str());
  }
  state.counters["steps/s"] =
      benchmark::Counter(static_cast<double>(T * B * state.iterations()), benchmark::Counter::kIsRate);
}

BENCHMARK(Inference)
    ->ArgNames({"network", "rows"})
    ->ArgsProduct({{kMlp, kMinigrid, kNetHack}, {16, 64, 256}})
    ->UseRealTime();
BENCHMARK(Training)
    ->ArgNames({"network", "unrolls"})
    ->ArgsProduct({{kMlp, kMinigrid, kNetHack}, {32, 64}})
    ->UseRealTime();

}  // namespace
}  // namespace sibyl

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  const char* threads = std::getenv("SIBYL_BENCHMARK_THREADS");
  at::set_num_threads(threads != nullptr ? std::atoi(threads) : 2);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
