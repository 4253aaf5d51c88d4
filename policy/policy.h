#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "policy/action_distribution.h"
#include "policy/critic.h"
#include "policy/running_statistics.h"
#include "policy/torch.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// One tensor for each entry of EnvironmentSpec.observation, in that order, with the entry's dtype: [T, B, ...].
using Observations = std::vector<torch::Tensor>;

struct PolicyOutput {
  torch::Tensor action;  // [T, B, P] float: parameters of the distribution over actions (ActionDistribution)
  torch::Tensor critic;  // [T, B, V, K] float: the values as the critic writes them (ValueCode)
  torch::Tensor value;   // [T, B, V] float: expected discounted reward from the observation on; no gradient flows
  torch::Tensor states;  // [T, B, H] float: recurrent state after each step
};

// An actor-critic network. Several threads may call Forward at a time as long as no thread writes the weights.
class Policy : public torch::nn::Module {
 public:
  // A policy for an environment of this spec.
  explicit Policy(const v1::EnvironmentSpec& spec);

  // `first` [T, B] bool: the observation starts an episode, and the state is zeroed before it.
  // `state` [B, H] float: recurrent state before the first row.
  virtual PolicyOutput Forward(const Observations& observations, const torch::Tensor& first,
                               const torch::Tensor& state) = 0;
  // H; 0 for a policy without memory, whose states are [T, B, 0].
  virtual int64_t state_size() const = 0;

  // What PolicyOutput::action stands for.
  const ActionDistribution& distribution() const { return distribution_; }
  // Shared with the network.
  Critic critic() const { return critic_; }
  // The statistics that normalise InputNumbers; null where the network normalises no input.
  RunningStatistics input_statistics() const { return input_statistics_; }
  // The numbers of the observations before they are normalised, [T * B, N] float.
  virtual torch::Tensor InputNumbers(const Observations&) const { return {}; }

  // Computes matrix products and convolutions in bfloat16, in networks large enough to gain by it. Weights, sums,
  // states, the action head and values stay float. Call before the first Forward.
  void UseBfloat16() { bfloat16_ = true; }

 protected:
  // The output of a network whose last layer gave `features` [T, B, F] for these observations.
  PolicyOutput Output(const torch::Tensor& features, torch::Tensor states, const Observations& observations);
  // InputNumbers, normalised and within +-5.
  torch::Tensor NormalisedNumbers(const Observations& observations);

  // `features` [N, F] with what the policy is told of its last step behind them, [N, F + K]; N = T * B.
  torch::Tensor WithFeedback(const torch::Tensor& features, const Observations& observations) const;

  const ActionDistribution distribution_;
  const int feedback_;  // of the observation arrays (Feedback::PolicySpec); -1: none
  ActionHead actor_{nullptr};
  Critic critic_{nullptr};
  RunningStatistics input_statistics_{nullptr};
  bool bfloat16_ = false;
};

// Makes a policy for the environment's observations, with fresh weights from LibTorch's default generator. AUTO chooses
// the network by the environment's name. InvalidArgument: an array that the network needs is missing or has another
// shape, the action cannot be played, or there are no numbers to normalise.
// `spec`: Feedback::PolicySpec. `reward`: whose channels may have values of their own (policy.value_heads).
absl::StatusOr<std::shared_ptr<Policy>> MakePolicy(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec,
                                                   const v1::RewardConfig& reward = {});

// Sets orthogonal weights with the given gain, and every other parameter to 0.
void InitOrthogonal(torch::nn::Module& layer, double gain);

}  // namespace sibyl
