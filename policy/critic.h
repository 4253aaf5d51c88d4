#pragma once

#include "policy/running_statistics.h"
#include "policy/torch.h"
#include "policy/value_heads.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// How values [..., V] are written: V = ValueCount(config) of them, each in K numbers.
struct ValueCode {
  RunningStatistics statistics{nullptr};  // where values are normalised
  torch::Tensor bins;                     // [K] float: centres, where a value is the mean of a distribution over bins

  // Values in the units that the critic works in: normalised where they are.
  torch::Tensor Encode(const torch::Tensor& values) const;
  // Of what a critic says, [..., V, K]: a value itself, in those units (K = 1), or logits of the bins.
  torch::Tensor Decode(const torch::Tensor& critic) const;
};

// [..., K]: what a distribution over evenly spaced bins should be for `encoded` [...]: a normal distribution around it,
// 0.75 bins wide, within the bins' range (HL-Gauss: Imani & White 2018, section 3; Farebrother et al. 2024,
// section 3.2). What lies outside counts as the nearest centre.
torch::Tensor BinTargets(const torch::Tensor& bins, const torch::Tensor& encoded);

// The last layer of a value network.
class CriticImpl : public torch::nn::LinearImpl {
 public:
  CriticImpl(int64_t features, const v1::PolicyConfig& config);

  // [T, B, F] to [T, B, V, K].
  torch::Tensor forward(const torch::Tensor& features);

  int64_t heads() const { return heads_; }
  const ValueCode& code() const { return code_; }

  // Follows the returns, where values are normalised: `mean` and `mean_square` [V] are of the value targets of
  // one batch. A value itself is then written otherwise and stays what it was (Pop-Art: van Hasselt et al. 2016,
  // equation 3 and proposition 1); a distribution over bins has to be learned again.
  void FollowReturns(const torch::Tensor& mean, const torch::Tensor& mean_square);

 private:
  ValueCode code_;
  int64_t heads_;
};
TORCH_MODULE(Critic);

}  // namespace sibyl
