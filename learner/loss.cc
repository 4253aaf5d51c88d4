#include "learner/loss.h"

namespace sibyl::learner {

Losses ComputeLosses(const LossInputs& in, const v1::LearnerConfig& config) {
  const torch::Tensor weight = in.valid.to(in.value.dtype());
  const torch::Tensor count = weight.sum().clamp_min(1);
  const auto mean = [&](const torch::Tensor& x) { return (x * weight).sum() / count; };

  const torch::Tensor centred = in.advantage - mean(in.advantage);
  const torch::Tensor deviation = mean(centred.square()).sqrt().clamp_min(1e-3);
  const torch::Tensor advantage = (centred / deviation).detach();

  const double high = 1 + config.ppo_clip(), low = 1 / high;
  const torch::Tensor ratio = (in.log_prob - in.behaviour_log_prob).exp();
  const torch::Tensor clipped = ratio.clamp(low, high);
  Losses losses;
  losses.policy = -mean(torch::minimum(ratio * advantage, clipped * advantage));

  const double reach = config.value_clip();
  const torch::Tensor clipped_value = in.behaviour_value + (in.value - in.behaviour_value).clamp(-reach, reach);
  losses.value =
      mean(torch::maximum((in.value - in.target).square(), (clipped_value - in.target).square()));
  losses.entropy = mean(in.entropy);
  losses.total = losses.policy + config.value_coefficient() * losses.value -
                 config.entropy_coefficient() * losses.entropy;
  losses.clip_fraction = mean((ratio.detach() != clipped.detach()).to(weight.dtype()));
  return losses;
}

}  // namespace sibyl::learner
