// Training on every form of action: what the trainer computes against the formulas, and that it learns.

#include <gtest/gtest.h>

#include <cmath>

#include "common/action_spec.h"
#include "common/config.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "learner/training/trainer.h"
#include "policy/action_distribution.h"
#include "policy/observation_tensor.h"
#include "policy/sampler.h"

namespace sibyl::learner {
namespace {

class ActionSpacesTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kT = 8, kB = 16;

  ActionSpacesTest() {
    v1::Experiment experiment;
    FillDefaults(&experiment);
    config_ = experiment.learner();
    spec_ = *FindEnvironmentSpec(GetParam());
    torch::manual_seed(1);
    policy_ = *MakePolicy({}, spec_);
    for (int64_t b = 0; b < kB; ++b) environments_.push_back(*MakeEnvironment(GetParam()));
  }

  // Plays kT steps in each environment, each an episode of its own, with the policy. The mean reward is mean_reward_.
  TrainingBatch Play() {
    const ActionDistribution& distribution = policy_->distribution();
    const bool box = distribution.is_box();
    TrainingBatch batch;
    for (const auto& array : spec_.observation()) {
      batch.observation.push_back(torch::zeros(BatchedShape(array, {kT + 1, kB}), ToScalarType(array.dtype())));
      batch.final_observation.push_back(batch.observation.back()[0].slice(0, 0, 0));
    }
    batch.first = torch::zeros({kT + 1, kB}, torch::kBool);
    batch.first[0].fill_(true);
    batch.state = torch::zeros({kB, 0});
    batch.action = torch::zeros({kT, kB, distribution.numbers()}, box ? torch::kFloat32 : torch::kInt64);
    batch.behaviour_log_prob = torch::zeros({kT, kB});
    batch.behaviour_value = torch::zeros({kT, kB, 1});
    batch.reward = torch::zeros({kT, kB, 1});
    batch.terminated = batch.truncated = torch::zeros({kT, kB}, torch::kBool);
    batch.valid = torch::ones({kT, kB}, torch::kBool);
    batch.final_step = batch.final_unroll = torch::empty({0}, torch::kInt64);
    const auto row = [&](int64_t t, int64_t b) {
      std::vector<void*> arrays;
      for (const torch::Tensor& array : batch.observation) {
        arrays.push_back(static_cast<char*>(array.data_ptr()) + (t * kB + b) * (array.nbytes() / ((kT + 1) * kB)));
      }
      return arrays;
    };
    for (int64_t b = 0; b < kB; ++b) EXPECT_TRUE(environments_[b]->Reset(next_seed_++, row(0, b)).ok());
    Sample sample;
    for (int64_t t = 0; t < kT; ++t) {
      Observations now;
      for (const torch::Tensor& array : batch.observation) now.push_back(array.slice(0, t, t + 1));
      EXPECT_TRUE(sampler_.Draw(*policy_, now, batch.first.slice(0, t, t + 1), batch.state, &sample).ok());
      for (int64_t b = 0; b < kB; ++b) {
        std::string action = sample.action.substr(b * distribution.action_bytes(), distribution.action_bytes());
        const int64_t at = t * kB + b;
        distribution.Decode(action.data(),
                            static_cast<char*>(batch.action.data_ptr()) + at * (batch.action.nbytes() / (kT * kB)));
        batch.behaviour_log_prob.data_ptr<float>()[at] = sample.log_prob[b];
        batch.behaviour_value.data_ptr<float>()[at] = sample.value.data_ptr<float>()[b];
        if (box) ScaleToBounds(spec_.action().box(), action.data());
        const auto result = environments_[b]->Step(ActionView(action.data()), row(t + 1, b));
        EXPECT_TRUE(result.ok());
        batch.reward.data_ptr<float>()[at] = result->reward;
        EXPECT_EQ(environments_[b]->Figures()[0], 0) << "an illegal choice, or a number out of bounds";
      }
    }
    mean_reward_ = batch.reward.mean().item<double>();
    return batch;
  }

  v1::LearnerConfig config_;
  v1::EnvironmentSpec spec_;
  std::shared_ptr<Policy> policy_;
  std::vector<std::unique_ptr<Environment>> environments_;
  Sampler sampler_{3};
  uint64_t next_seed_ = 1;
  double mean_reward_ = 0;
};

// Log-probability and entropy of one action, number by number.
std::pair<double, double> Literal(const v1::EnvironmentSpec& spec, const torch::Tensor& parameters,
                                  const torch::Tensor& action) {
  double log_prob = 0, entropy = 0;
  if (spec.action().has_box()) {
    const int64_t D = action.size(0);
    for (int64_t i = 0; i < D; ++i) {
      const double deviation = std::exp(parameters[D + i].item<double>());
      const double z = (action[i].item<double>() - parameters[i].item<double>()) / deviation;
      log_prob += -z * z / 2 - std::log(deviation * std::sqrt(2 * M_PI));
      entropy += std::log(deviation * std::sqrt(2 * M_PI * M_E));
    }
    return {log_prob, entropy};
  }
  int64_t begin = 0;
  for (int part = 0; part < spec.action().discrete().parts_size(); ++part) {
    const int64_t choices = spec.action().discrete().parts(part).choices_size();
    double sum = 0;
    for (int64_t i = 0; i < choices; ++i) sum += std::exp(parameters[begin + i].item<double>());
    for (int64_t i = 0; i < choices; ++i) {
      const double p = std::exp(parameters[begin + i].item<double>()) / sum;
      if (p > 0) entropy -= p * std::log(p);
      if (action[part].item<int64_t>() == i) log_prob += std::log(p);
    }
    begin += choices;
  }
  return {log_prob, entropy};
}

TEST_P(ActionSpacesTest, ThePolicyLossIsThatOfTheFormulas) {
  config_.set_epochs(1);
  config_.set_minibatches(1);
  config_.set_learning_rate(0.01);
  config_.set_ppo_clip(0.1);
  // With a discount of 0 a step's advantage is its reward less its value.
  config_.set_gamma(0);
  Trainer trainer(config_, policy_);
  TrainingBatch batch = Play();
  // The first pass sets the proximal policy; the second one's ratios are to it.
  batch.proximal_log_prob = batch.behaviour_log_prob.clone();
  ASSERT_TRUE(trainer.Update(batch).ok());
  const PolicyOutput output = [&] {
    torch::NoGradGuard no_grad;
    return policy_->Forward(batch.observation, batch.first, batch.state);
  }();
  std::vector<double> log_ratios, advantages, entropies;
  for (int64_t t = 0; t < kT; ++t) {
    for (int64_t b = 0; b < kB; ++b) {
      const auto [log_prob, entropy] = Literal(spec_, output.action[t][b], batch.action[t][b]);
      log_ratios.push_back(log_prob - batch.behaviour_log_prob[t][b].item<double>());
      entropies.push_back(entropy);
      advantages.push_back(batch.reward[t][b][0].item<double>() - output.value[t][b][0].item<double>());
    }
  }
  const double n = static_cast<double>(advantages.size());
  double mean = 0, variance = 0, loss = 0, entropy = 0, clipped = 0;
  for (const double advantage : advantages) mean += advantage / n;
  for (const double advantage : advantages) variance += (advantage - mean) * (advantage - mean) / n;
  for (size_t i = 0; i < advantages.size(); ++i) {
    const double advantage = (advantages[i] - mean) / std::max(std::sqrt(variance), config_.min_advantage_deviation());
    const double ratio = std::exp(log_ratios[i]), held = std::clamp(ratio, 1 / 1.1, 1.1);
    loss -= std::min(ratio * advantage, held * advantage) / n;
    entropy += entropies[i] / n;
    clipped += (ratio != held) / n;
  }
  const auto stats = trainer.Update(batch);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_NEAR(stats->policy_loss, loss, 1e-4);
  EXPECT_NEAR(stats->entropy, entropy, 1e-4);
  EXPECT_NEAR(stats->clip_fraction, clipped, 0.5 / n);
  EXPECT_GT(clipped, 0) << "the ratios are too near to 1 to be a test";
}

TEST_P(ActionSpacesTest, IsLearned) {
  config_.set_learning_rate(3e-3);
  config_.set_epochs(2);
  config_.set_entropy_coefficient(0);
  config_.set_gamma(0.5);
  Trainer trainer(config_, policy_);
  double before = 0, after = 0;
  for (int update = 0; update < 300; ++update) {
    const TrainingBatch batch = Play();
    if (update < 10) before += mean_reward_ / 10;
    if (update >= 290) after += mean_reward_ / 10;
    ASSERT_TRUE(trainer.Update(batch).ok());
  }
  EXPECT_LT(before, 0.6);
  EXPECT_GT(after, 0.75);
}

INSTANTIATE_TEST_SUITE_P(Spaces, ActionSpacesTest, testing::Values("debug/Choices", "debug/Reach"),
                         [](const auto& info) { return std::string(info.param).substr(6); });

}  // namespace
}  // namespace sibyl::learner
