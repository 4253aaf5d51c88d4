#include "learner/training/vtrace.h"

namespace sibyl::learner {

VtraceOutputs Vtrace(const VtraceInputs& in) {
  torch::NoGradGuard no_grad;
  const int64_t T = in.reward.size(0);
  const torch::Tensor rho = in.ratio.clamp_max(in.rho_bar), c = in.ratio.clamp_max(in.c_bar);
  const torch::Tensor goes_on = in.terminated.logical_or(in.truncated).logical_not().to(in.value.dtype());
  const torch::Tensor value = in.value.slice(0, 0, T);
  // What the values of the state after each step are, where the unroll's own next row is not that state.
  const torch::Tensor bootstraps = in.truncated.logical_and(in.terminated.logical_not());
  const torch::Tensor at_end = torch::where(bootstraps, in.final_value, torch::zeros_like(in.final_value));
  const torch::Tensor next_value = goes_on * in.value.slice(0, 1, T + 1) + (1 - goes_on) * at_end;
  const torch::Tensor delta = rho * (in.reward + in.gamma * next_value - value);

  // v_t - V(x_t) = delta_t + gamma c_t (v_{t+1} - V(x_{t+1})), and 0 beyond an end.
  const torch::Tensor decay = in.gamma * c * goes_on;
  std::vector<torch::Tensor> excess(T);
  torch::Tensor later = torch::zeros_like(in.value[0]);
  for (int64_t t = T - 1; t >= 0; --t) later = excess[t] = delta[t] + decay[t] * later;
  VtraceOutputs out;
  out.target = torch::stack(excess) + value;
  const torch::Tensor next_target = torch::cat({out.target.slice(0, 1, T), in.value.slice(0, T, T + 1)});
  out.advantage = rho * (in.reward + in.gamma * (goes_on * next_target + (1 - goes_on) * at_end) - value);
  return out;
}

}  // namespace sibyl::learner
