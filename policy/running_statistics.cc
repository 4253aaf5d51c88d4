#include "policy/running_statistics.h"

#include <algorithm>

namespace sibyl {

RunningStatisticsImpl::RunningStatisticsImpl(int64_t size, double least_rate) : least_rate_(least_rate) {
  mean_ = register_parameter("mean", torch::zeros({size}), /*requires_grad=*/false);
  deviation_ = register_parameter("deviation", torch::ones({size}), /*requires_grad=*/false);
  seen_ = register_parameter("seen", torch::zeros({}), /*requires_grad=*/false);
}

void RunningStatisticsImpl::Follow(const torch::Tensor& mean, const torch::Tensor& mean_square, double weight) {
  if (weight <= 0) return;
  torch::NoGradGuard no_grad;
  const double seen = seen_.item<double>() + weight;
  const double rate = std::max(least_rate_, weight / seen);
  const auto doubles = [](const torch::Tensor& x) { return x.to(torch::kCPU, torch::kFloat64); };
  const torch::Tensor was = doubles(mean_), square_was = was.square() + doubles(deviation_).square();
  const torch::Tensor is = was.lerp(doubles(mean), rate), square = square_was.lerp(doubles(mean_square), rate);
  mean_.copy_(is);
  deviation_.copy_((square - is.square()).clamp_min(0).sqrt().clamp_min(1e-4));
  seen_.fill_(seen);
}

}  // namespace sibyl
