#include "learner/training/loss.h"

#include <algorithm>
#include <cmath>

namespace sibyl::learner {
namespace {

// Beyond these a ratio is noise, and could overflow. Its gradient is zero there.
constexpr double kLowestRatio = 0.05, kHighestRatio = 20;

// [T, B, V].
torch::Tensor ValueLoss(const LossInputs& in, double reach) {
  const torch::Tensor target = in.code.Encode(in.target);
  if (in.code.bins.defined()) return -(BinTargets(in.code.bins, target) * in.critic.log_softmax(-1)).sum(-1);
  const torch::Tensor value = in.critic.squeeze(-1), before = in.code.Encode(in.behaviour_value);
  const torch::Tensor clipped = before + (value - before).clamp(-reach, reach);
  return torch::maximum((value - target).square(), (clipped - target).square());
}

}  // namespace

torch::Tensor ImportanceRatio(const torch::Tensor& log_prob, const torch::Tensor& other_log_prob) {
  return (log_prob - other_log_prob).clamp(std::log(kLowestRatio), std::log(kHighestRatio)).exp();
}

torch::Tensor LossSums(const LossInputs& in) {
  torch::NoGradGuard no_grad;
  const torch::Tensor advantage = torch::where(in.valid, in.advantage, 0).to(torch::kFloat64);
  return torch::stack({in.valid.sum().to(torch::kFloat64), advantage.sum(), advantage.square().sum()});
}

Losses ComputeLosses(const LossInputs& in, const torch::Tensor& sums, double entropy_coefficient,
                     const v1::LearnerConfig& config) {
  const auto of_inputs = in.advantage.options();
  const torch::Tensor steps = sums[0].clamp_min(1);
  const torch::Tensor count = steps.to(of_inputs);
  const auto mean = [&](const torch::Tensor& x) { return torch::where(in.valid, x, 0).sum() / count; };
  const auto mean_by_head = [&](const torch::Tensor& x) {
    return torch::where(in.valid.unsqueeze(-1), x, 0).sum(at::IntArrayRef({0, 1})) / count;
  };

  const torch::Tensor centre = sums[1] / steps;
  const torch::Tensor variance = (sums[2] / steps - centre.square()).clamp_min(0);
  const torch::Tensor deviation = variance.sqrt().clamp_min(config.min_advantage_deviation());
  const torch::Tensor advantage = ((in.advantage - centre.to(of_inputs)) / deviation.to(of_inputs)).detach();

  const double high = 1 + config.ppo_clip(), low = 1 / high;
  const torch::Tensor ratio = ImportanceRatio(in.log_prob, in.proximal_log_prob);
  const torch::Tensor clipped = ratio.clamp(low, high);
  Losses losses;
  losses.policy = -mean(torch::minimum(ratio * advantage, clipped * advantage));

  losses.value = mean(ValueLoss(in, config.value_clip()).sum(-1));
  losses.entropy = mean(in.entropy);
  losses.total = losses.policy + config.value_coefficient() * losses.value - entropy_coefficient * losses.entropy;
  torch::NoGradGuard no_grad;
  losses.clip_fraction = mean(ratio.ne(clipped).to(ratio.scalar_type()));
  const torch::Tensor value = in.value.sum(-1), target = in.target.sum(-1);
  losses.mean_value = mean(value);
  losses.mean_target = mean(target);
  losses.mean_square_target = mean(target.square());
  losses.mean_square_error = mean((target - value).square());
  losses.head_targets = mean_by_head(in.target);
  losses.head_square_targets = mean_by_head(in.target.square());
  return losses;
}

double ExplainedVariance(double mean_target, double mean_square_target, double mean_square_error) {
  return 1 - mean_square_error / std::max(mean_square_target - mean_target * mean_target, 1e-8);
}

}  // namespace sibyl::learner
