#pragma once

#include "policy/critic.h"
#include "policy/torch.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

struct LossInputs {
  torch::Tensor log_prob;  // [T, B] of the actions under the trained policy; gradient flows
  torch::Tensor entropy;   // [T, B] of the trained policy, in nats; gradient flows
  torch::Tensor critic;    // [T, B, V, K] values as `code` writes them; gradient flows
  ValueCode code;
  torch::Tensor value;              // [T, B, V] the same, decoded
  torch::Tensor proximal_log_prob;  // [T, B] of the actions when training first met these steps
  torch::Tensor behaviour_value;    // [T, B, V]
  torch::Tensor target;             // [T, B, V] value targets
  torch::Tensor advantage;          // [T, B]
  torch::Tensor valid;              // [T, B] bool: the steps that count
};

struct Losses {
  torch::Tensor total;          // scalar: policy + value - entropy bonus; gradient flows
  torch::Tensor policy, value;  // scalars; value before its coefficient
  torch::Tensor entropy;        // scalar: mean
  torch::Tensor clip_fraction;  // scalar: share of steps whose ratio is outside the clip range
  // Of the sum over heads, scalars: E V, E target, E target^2, E (target - V)^2.
  torch::Tensor mean_value, mean_target, mean_square_target, mean_square_error;
  torch::Tensor head_targets, head_square_targets;  // [V]: E target, E target^2
};

// The ratio of two probabilities, held within [0.05, 20]; differentiable.
torch::Tensor ImportanceRatio(const torch::Tensor& log_prob, const torch::Tensor& other_log_prob);

// What means are taken over: the number of valid steps, and the sums of their advantages and of the squares of those:
// [3] double. Of several batches that are one, the sums.
torch::Tensor LossSums(const LossInputs& inputs);

// Means over the valid steps (0 when there are none) that `sums` counts; where those are of several batches, this
// batch's part of each, and the parts add up to the mean. Of
//   policy: -min(ratio A, clip(ratio, 1 / (1 + e), 1 + e) A), PPO's clipped surrogate (Schulman et al. 2017,
//     equation 7), the ratio to the proximal policy rather than the behaviour policy (Hilton et al. 2022, equation 4),
//     A normalised to mean 0 and deviation 1 over the valid steps, the deviation at least min_advantage_deviation;
//   value, the sum over heads of max((V - v)^2, (V_clipped - v)^2), where V_clipped stays within value_clip of the
//     behaviour policy's V, all in the units of `code`; of values over bins, the cross-entropy of BinTargets(v);
//   entropy.
Losses ComputeLosses(const LossInputs& inputs, const torch::Tensor& sums, double entropy_coefficient,
                     const v1::LearnerConfig& config);

// 1 - E(target - V)^2 / Var(target): 1 where V predicts the targets exactly, 0 where their mean would do.
double ExplainedVariance(double mean_target, double mean_square_target, double mean_square_error);

}  // namespace sibyl::learner
