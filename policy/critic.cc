#include "policy/critic.h"

#include <cmath>

namespace sibyl {
namespace {

// Of a batch's returns in the running ones (Hessel et al. 2018, table 1).
constexpr double kReturnsRate = 3e-4;
// Of HL-Gauss's normal distribution, in bins.
constexpr double kDeviation = 0.75;

int64_t Numbers(const v1::PolicyConfig& config) { return std::max<int64_t>(config.value_bins(), 1); }

}  // namespace

torch::Tensor ValueCode::Encode(const torch::Tensor& values) const {
  return statistics.is_empty() ? values : statistics->Normalise(values);
}

torch::Tensor ValueCode::Decode(const torch::Tensor& critic) const {
  const torch::Tensor encoded = bins.defined() ? critic.softmax(-1).matmul(bins) : critic.squeeze(-1);
  return statistics.is_empty() ? encoded : statistics->Denormalise(encoded);
}

torch::Tensor BinTargets(const torch::Tensor& bins, const torch::Tensor& encoded) {
  const torch::Tensor width = bins[1] - bins[0];
  const torch::Tensor edges = torch::cat({bins - width / 2, bins.slice(0, -1) + width / 2});
  const torch::Tensor centre = encoded.clamp(bins[0], bins[-1]).unsqueeze(-1);
  const torch::Tensor below = at::special_ndtr((edges - centre) / (kDeviation * width));
  const torch::Tensor inside = below.slice(-1, 1) - below.slice(-1, 0, -1);
  return inside / inside.sum(-1, /*keepdim=*/true);
}

CriticImpl::CriticImpl(int64_t features, const v1::PolicyConfig& config, int64_t values)
    : LinearImpl(features, values * Numbers(config)), heads_(values) {
  torch::NoGradGuard no_grad;
  bias.zero_();
  // Values start near 0, or in the middle of the bins' range: random ones would be far larger than rare rewards, and
  // their errors all that is learned from until they are unlearned.
  torch::nn::init::orthogonal_(weight, 0.01);
  if (config.value_bins() > 0) {
    code_.bins = register_buffer(
        "bins", torch::linspace(config.value_low(), config.value_high(), static_cast<int64_t>(config.value_bins())));
  }
  if (config.normalise_returns()) {
    code_.statistics = register_module("returns", RunningStatistics(heads_, kReturnsRate));
  }
}

torch::Tensor CriticImpl::forward(const torch::Tensor& features) {
  const torch::Tensor out = LinearImpl::forward(features);
  return out.view({out.size(0), out.size(1), heads_, -1});
}

void CriticImpl::FollowReturns(const torch::Tensor& mean, const torch::Tensor& mean_square) {
  if (code_.statistics.is_empty()) return;
  torch::NoGradGuard no_grad;
  RunningStatisticsImpl& returns = *code_.statistics;
  const torch::Tensor old_mean = returns.mean().clone(), old_deviation = returns.deviation().clone();
  returns.Follow(mean, mean_square, /*weight=*/1);
  if (code_.bins.defined()) return;
  const torch::Tensor scale = old_deviation / returns.deviation();
  weight.mul_(scale.unsqueeze(1));
  bias.mul_(scale).add_((old_mean - returns.mean()) / returns.deviation());
}

}  // namespace sibyl
