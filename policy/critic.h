#pragma once

#include "policy/running_statistics.h"
#include "policy/torch.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// How a critic's output [..., V, K] encodes V values, each in K numbers.
struct ValueCode {
  RunningStatistics statistics{nullptr};  // null where values are not normalised
  torch::Tensor bins;                     // [K] float: centres of the bins; undefined where a value is a number

  // Converts values to the critic's units: normalised values, where the critic normalises; else the same values.
  torch::Tensor Encode(const torch::Tensor& values) const;
  // Converts the critic's output [..., V, K] to values [..., V]: from one number in the critic's units, or bin logits.
  torch::Tensor Decode(const torch::Tensor& critic) const;
};

// The target distribution [..., K] over evenly spaced bins for `encoded` [...]: a normal distribution around the value,
// 0.75 bins wide, within the bins' range (HL-Gauss: Imani & White 2018, section 3; Farebrother et al. 2024,
// section 3.2). A value outside the range counts as the nearest centre.
torch::Tensor BinTargets(const torch::Tensor& bins, const torch::Tensor& encoded);

// The last layer of a value network.
class CriticImpl : public torch::nn::LinearImpl {
 public:
  // `values`: V.
  CriticImpl(int64_t features, const v1::PolicyConfig& config, int64_t values);

  // [T, B, F] to [T, B, V, K].
  torch::Tensor forward(const torch::Tensor& features);

  int64_t heads() const { return heads_; }
  const ValueCode& code() const { return code_; }

  // Updates the statistics of the returns with one batch's value targets, whose mean and mean square are [V] each. Does
  // nothing where values are not normalised. A value that is a number stays the same, because the weights change too
  // (Pop-Art: van Hasselt et al. 2016, equation 3, proposition 1); a distribution over bins has to be learned again.
  void FollowReturns(const torch::Tensor& mean, const torch::Tensor& mean_square);

 private:
  ValueCode code_;
  int64_t heads_;
};
TORCH_MODULE(Critic);

}  // namespace sibyl
