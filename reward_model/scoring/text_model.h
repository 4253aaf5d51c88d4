#pragma once

#include <memory>
#include <string>
#include <vector>

#include "policy/torch.h"
#include "policy/weights.h"
#include "reward_model/scoring/text_network.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Mean over N examples of weight * cross-entropy between `target` and sigmoid(score), in nats: [N] each, a scalar.
// Classification: score of a text, target the probability that it is good, soft or hard. Ranking: the first text's
// score less the second's, target the probability that the first is better (Bradley & Terry 1952); a tie is 1/2.
torch::Tensor LabelLoss(const torch::Tensor& score, const torch::Tensor& target, const torch::Tensor& weight);

// Weights of examples with `target` [N], so that good and bad ones weigh the same where `good_share` of all are good;
// neither more than `limit` each. [N].
torch::Tensor BalancingWeights(const torch::Tensor& target, double good_share, double limit);

// The score that counts, of K networks' scores [K, N]: [N].
torch::Tensor EnsembleOf(const torch::Tensor& scores, v1::EnsembleScore which, double bound);

// Deviation between K networks' scores [K, N]: [N]; 0 for one network.
torch::Tensor Disagreement(const torch::Tensor& scores);

// Mean and deviation (at least 1e-6) of each row of `scores` [K, N] where column n counts `weight` [N] times: [K] each.
struct Moments {
  torch::Tensor mean, deviation;
};
Moments WeightedMoments(const torch::Tensor& scores, const torch::Tensor& weight);

// An ensemble of text networks and their optimisers. One caller at a time.
class TextModel {
 public:
  // The shape follows from the kind, CLASSIFICATION or RANKING. Weights depend on `seed` alone; LibTorch's default
  // generator is seeded with it, and drawn from by dropout.
  TextModel(v1::RewardModelKind kind, const v1::RewardTrainingConfig& config, uint64_t seed);

  // One Adam step (Kingma & Ba 2015) of one network on N examples about M texts [M, text_length] uint8; the loss before
  // it. `first`, `second` [N] int64: rows of `texts`; `second` is undefined for examples of single texts. `target`,
  // `weight` [N] float.
  double Train(int network, const torch::Tensor& texts, const torch::Tensor& first, const torch::Tensor& second,
               const torch::Tensor& target, const torch::Tensor& weight);

  // Each network's score of texts [N, text_length] uint8, without dropout: [K, N] float.
  torch::Tensor Score(const torch::Tensor& texts);

  int size() const { return static_cast<int>(members_.size()); }
  // Optimiser steps of all networks together.
  int64_t steps() const;

  // All that a checkpoint needs, under the names it has there. The tensors are this model's own.
  NamedTensors tensors() const;

 private:
  struct Member {
    std::shared_ptr<TextNetwork> network;
    std::vector<torch::Tensor> parameters, first_moments, second_moments;
    torch::Tensor steps;  // [] float
  };

  const double learning_rate_;
  std::vector<Member> members_;
};

}  // namespace sibyl::reward_model
