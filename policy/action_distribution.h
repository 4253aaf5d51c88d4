#pragma once

#include <cstdint>
#include <vector>

#include "common/random.h"
#include "policy/torch.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// The distribution over actions that a policy's output stands for. The environment's action says which:
//   discrete: each part is categorical and independent of the others. Parameters: the logits of each part's choices,
//     part after part. A masked choice has probability 0.
//   box: each number is normal and independent of the others. Parameters: the D means, then the D logarithms of the
//     deviations, which are held within [-5, 2]. Numbers are in the policy's units (ActionSpec.Box).
class ActionDistribution {
 public:
  explicit ActionDistribution(const v1::EnvironmentSpec& spec);

  // P, parameters of one distribution; N, numbers of one action; bytes of one action as ActionSpec lays it out.
  int64_t parameters() const { return parameters_; }
  int64_t numbers() const { return numbers_; }
  size_t action_bytes() const { return action_bytes_; }
  bool is_box() const { return box_; }

  // The parameters [T, B, P] with the logits of the illegal choices of `observations` at the lowest value that counts.
  // The same tensor where nothing is masked.
  torch::Tensor Masked(const torch::Tensor& parameters, const std::vector<torch::Tensor>& observations) const;

  // Of actions [..., N] (int64; of a box float) under parameters [..., P]; gradients flow.
  struct Densities {
    torch::Tensor log_prob;  // [...]: log-probability; of a box the logarithm of the density
    torch::Tensor entropy;   // [...], in nats
  };
  Densities At(const torch::Tensor& parameters, const torch::Tensor& action) const;

  // What Draw and Best read, from parameters [B, P] on any device: [B, P] float, on the CPU, contiguous.
  torch::Tensor ForDrawing(const torch::Tensor& parameters) const;
  // Draws an action from a row of ForDrawing and writes its bytes. Gives its log-probability, which is not finite where
  // the row is not.
  float Draw(const float* row, Random& random, char* action) const;
  // As Draw, for the most probable action.
  float Best(const float* row, char* action) const;

  // Writes an action of these bytes as numbers [N] in the form that At takes: int64, of a box float.
  void Decode(const char* action, void* numbers) const;

 private:
  bool box_;
  int mask_ = -1;                 // of the observation arrays; -1: none
  std::vector<int64_t> choices_;  // by part
  int64_t numbers_, parameters_;
  size_t action_bytes_;
};

// The last layer of a policy: from features [..., F] to the parameters [..., P] of the distribution over actions. Of a
// box the deviations are parameters of their own that do not depend on the features (Schulman et al. 2017,
// section 6.1).
class ActionHeadImpl : public torch::nn::LinearImpl {
 public:
  // The deviations are 1 until they are learned.
  ActionHeadImpl(int64_t features, const ActionDistribution& distribution);
  torch::Tensor forward(const torch::Tensor& features);

 private:
  torch::Tensor log_deviation_;  // [D] of a box; else undefined
};
TORCH_MODULE(ActionHead);

}  // namespace sibyl
