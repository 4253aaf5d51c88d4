#pragma once

#include "policy/torch.h"

namespace sibyl {

// Means and deviations that training follows: weights like a layer's, saved and sent with them, that no gradient
// changes.
class RunningStatisticsImpl : public torch::nn::Module {
 public:
  // Of `size` numbers. What is new counts as its share of all there was, and at least as `least_rate`: 0 gives the mean
  // over everything, more of it forgets.
  RunningStatisticsImpl(int64_t size, double least_rate);

  // [..., size] float, to mean 0 and deviation 1 and back.
  torch::Tensor Normalise(const torch::Tensor& x) const { return (x - mean_) / deviation_; }
  torch::Tensor Denormalise(const torch::Tensor& x) const { return x * deviation_ + mean_; }

  const torch::Tensor& mean() const { return mean_; }
  const torch::Tensor& deviation() const { return deviation_; }

  // Takes in `weight` rows; `mean` and `mean_square` [size] are theirs. Deviations are at least 1e-4.
  void Follow(const torch::Tensor& mean, const torch::Tensor& mean_square, double weight);

 private:
  const double least_rate_;
  torch::Tensor mean_, deviation_;  // [size] float
  torch::Tensor seen_;              // [] float: the weight of everything so far
};
TORCH_MODULE(RunningStatistics);

}  // namespace sibyl
