#pragma once

#include "policy/torch.h"

namespace sibyl {

// Means and deviations that follow the training data. They are saved and sent like the weights of a layer, but no
// gradient changes them.
class RunningStatisticsImpl : public torch::nn::Module {
 public:
  // Statistics of `size` numbers. New rows weigh as their share of all rows, and at least `least_rate`: with 0 the
  // statistics cover all rows equally; larger rates forget old rows.
  RunningStatisticsImpl(int64_t size, double least_rate);

  // Convert x [..., size] float to mean 0 and deviation 1, and back.
  torch::Tensor Normalise(const torch::Tensor& x) const { return (x - mean_) / deviation_; }
  torch::Tensor Denormalise(const torch::Tensor& x) const { return x * deviation_ + mean_; }

  const torch::Tensor& mean() const { return mean_; }
  const torch::Tensor& deviation() const { return deviation_; }

  // Adds `weight` rows whose means and mean squares are `mean` and `mean_square` [size]. Deviations are at least 1e-4.
  void Follow(const torch::Tensor& mean, const torch::Tensor& mean_square, double weight);

 private:
  const double least_rate_;
  torch::Tensor mean_, deviation_;  // [size] float
  torch::Tensor seen_;              // [] float: the weight of all rows so far
};
TORCH_MODULE(RunningStatistics);

}  // namespace sibyl
