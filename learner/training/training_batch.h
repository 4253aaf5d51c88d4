#pragma once

#include <vector>

#include "policy/policy.h"
#include "policy/torch.h"

namespace sibyl::learner {

// B unrolls of T transitions, on the learner's device. Step t is (o_t, a_t, r_{t+1}, terminated, truncated, o_{t+1}).
struct TrainingBatch {
  Observations observation;          // [T+1, B, ...] raw dtypes
  torch::Tensor first;               // [T+1, B] bool: o_t starts an episode
  torch::Tensor state;               // [B, H] float: recurrent state before o_0, before `first` zeroes it
  torch::Tensor action;              // [T, B, N] int64 or float, as ActionDistribution::At takes it
  torch::Tensor behaviour_log_prob;  // [T, B] float: log-probability of the action when it was chosen
  torch::Tensor proximal_log_prob;   // [T, B] float: that of the policy that first trains on it; undefined until then
  torch::Tensor behaviour_value;     // [T, B, V] float: values of o_t when the action was chosen
  torch::Tensor reward;              // [T, B, V] float: r_{t+1}, mixed; of several values, what each is of
  torch::Tensor terminated;          // [T, B] bool: nothing can be earned after r_{t+1}
  torch::Tensor truncated;           // [T, B] bool: cut off after r_{t+1}; the final observation has a value
  torch::Tensor valid;               // [T, B] bool: false leaves the step out of the loss
  Observations final_observation;    // [F, ...]: o_{t+1} of each truncated step
  torch::Tensor final_step;          // [F] int64: its t
  torch::Tensor final_unroll;        // [F] int64: its place in B
};

}  // namespace sibyl::learner
