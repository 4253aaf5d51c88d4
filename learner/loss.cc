#include "learner/loss.h"

#include <cmath>

namespace sibyl::learner {
namespace {

// Beyond these a ratio is noise, and could overflow. Its gradient is zero there.
constexpr double kLowestRatio = 0.05, kHighestRatio = 20;

}  // namespace

torch::Tensor ImportanceRatio(const torch::Tensor& log_prob, const torch::Tensor& behaviour_log_prob) {
  return (log_prob - behaviour_log_prob).clamp(std::log(kLowestRatio), std::log(kHighestRatio)).exp();
}

Losses ComputeLosses(const LossInputs& in, const v1::LearnerConfig& config) {
  const torch::Tensor count = in.valid.sum().clamp_min(1);
  const auto mean = [&](const torch::Tensor& x) { return torch::where(in.valid, x, 0).sum() / count; };

  const torch::Tensor centred = in.advantage - mean(in.advantage);
  const torch::Tensor deviation = mean(centred.square()).sqrt().clamp_min(1e-3);
  const torch::Tensor advantage = (centred / deviation).detach();

  const double high = 1 + config.ppo_clip(), low = 1 / high;
  const torch::Tensor ratio = ImportanceRatio(in.log_prob, in.behaviour_log_prob);
  const torch::Tensor clipped = ratio.clamp(low, high);
  Losses losses;
  losses.policy = -mean(torch::minimum(ratio * advantage, clipped * advantage));

  const double reach = config.value_clip();
  const torch::Tensor clipped_value = in.behaviour_value + (in.value - in.behaviour_value).clamp(-reach, reach);
  losses.value = mean(torch::maximum((in.value - in.target).square(), (clipped_value - in.target).square()));
  losses.entropy = mean(in.entropy);
  losses.total =
      losses.policy + config.value_coefficient() * losses.value - config.entropy_coefficient() * losses.entropy;
  torch::NoGradGuard no_grad;
  losses.mean_ratio = mean(ratio);
  losses.clip_fraction = mean(ratio.ne(clipped).to(ratio.scalar_type()));
  losses.mean_value = mean(in.value);
  const torch::Tensor mean_target = mean(in.target);
  losses.explained_variance =
      1 - mean((in.target - in.value).square()) / mean((in.target - mean_target).square()).clamp_min(1e-8);
  return losses;
}

}  // namespace sibyl::learner
