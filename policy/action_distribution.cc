#include "policy/action_distribution.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/action_spec.h"
#include "common/columns.h"
#include "policy/draw.h"

namespace sibyl {
namespace {

// The logit of an illegal choice. Its probability rounds to 0, and 0 times its logarithm is 0.
constexpr double kIllegal = -1e8;
constexpr double kLowestLogDeviation = -5, kHighestLogDeviation = 2;
const double kLogSqrt2Pi = 0.5 * std::log(2 * M_PI);

}  // namespace

ActionDistribution::ActionDistribution(const v1::EnvironmentSpec& spec)
    : box_(spec.action().has_box()), numbers_(ActionNumbers(spec.action())), action_bytes_(ActionBytes(spec.action())) {
  for (const auto& part : spec.action().discrete().parts()) choices_.push_back(part.choices_size());
  parameters_ = box_ ? 2 * numbers_ : AllChoices(spec.action());
  for (int i = 0; i < spec.observation_size() && !spec.action().mask().empty(); ++i) {
    if (spec.observation(i).name() == spec.action().mask()) mask_ = i;
  }
}

torch::Tensor ActionDistribution::Masked(const torch::Tensor& parameters,
                                         const std::vector<torch::Tensor>& observations) const {
  if (mask_ < 0) return parameters;
  return parameters.masked_fill(observations[mask_].reshape(parameters.sizes()).eq(0), kIllegal);
}

ActionDistribution::Densities ActionDistribution::At(const torch::Tensor& parameters,
                                                     const torch::Tensor& action) const {
  if (box_) {
    const torch::Tensor mean = parameters.slice(-1, 0, numbers_);
    const torch::Tensor log_deviation = parameters.slice(-1, numbers_).clamp(kLowestLogDeviation, kHighestLogDeviation);
    const torch::Tensor distance = (action - mean) * (-log_deviation).exp();
    return {(-0.5 * distance.square() - log_deviation - kLogSqrt2Pi).sum(-1),
            (log_deviation + (0.5 + kLogSqrt2Pi)).sum(-1)};
  }
  Densities densities;
  int64_t begin = 0;
  for (size_t part = 0; part < choices_.size(); begin += choices_[part++]) {
    const torch::Tensor log_probs = parameters.slice(-1, begin, begin + choices_[part]).log_softmax(-1);
    const auto index = static_cast<int64_t>(part);
    const torch::Tensor log_prob = log_probs.gather(-1, action.slice(-1, index, index + 1)).squeeze(-1);
    const torch::Tensor entropy = -(log_probs.exp() * log_probs).sum(-1);
    densities.log_prob = part == 0 ? log_prob : densities.log_prob + log_prob;
    densities.entropy = part == 0 ? entropy : densities.entropy + entropy;
  }
  return densities;
}

torch::Tensor ActionDistribution::ForDrawing(const torch::Tensor& parameters) const {
  torch::Tensor rows;
  if (box_) {
    rows = torch::cat({parameters.slice(-1, 0, numbers_),
                       parameters.slice(-1, numbers_).clamp(kLowestLogDeviation, kHighestLogDeviation)},
                      -1);
  } else if (choices_.size() == 1) {
    rows = parameters.log_softmax(-1);
  } else {
    std::vector<torch::Tensor> parts;
    for (const torch::Tensor& part : parameters.split_with_sizes(choices_, -1)) parts.push_back(part.log_softmax(-1));
    rows = torch::cat(parts, -1);
  }
  return rows.to(torch::kCPU).contiguous();
}

float ActionDistribution::Draw(const float* row, Random& random, char* action) const {
  float log_prob = 0;
  for (int64_t i = 0; i < numbers_; ++i) {
    if (box_) {
      const float noise = DrawNormal(random), deviation = std::exp(row[numbers_ + i]);
      const float number = row[i] + deviation * noise;
      std::memcpy(action + i * sizeof number, &number, sizeof number);
      log_prob += -0.5f * noise * noise - row[numbers_ + i] - static_cast<float>(kLogSqrt2Pi);
      if (!std::isfinite(number)) log_prob = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const int chosen = DrawAction(row, static_cast<int>(choices_[i]), random);
    const auto choice = static_cast<uint16_t>(chosen);
    std::memcpy(action + i * sizeof choice, &choice, sizeof choice);
    log_prob += row[chosen];
    row += choices_[i];
  }
  return log_prob;
}

float ActionDistribution::Best(const float* row, char* action) const {
  float log_prob = 0;
  for (int64_t i = 0; i < numbers_; ++i) {
    if (box_) {
      std::memcpy(action + i * sizeof(float), row + i, sizeof(float));
      log_prob += -row[numbers_ + i] - static_cast<float>(kLogSqrt2Pi);
      if (!std::isfinite(row[i])) log_prob = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const float* best = std::max_element(row, row + choices_[i]);
    const auto choice = static_cast<uint16_t>(best - row);
    std::memcpy(action + i * sizeof choice, &choice, sizeof choice);
    log_prob += *best;
    row += choices_[i];
  }
  return log_prob;
}

void ActionDistribution::Decode(const char* action, void* numbers) const {
  if (box_) {
    std::memcpy(numbers, action, action_bytes_);
    return;
  }
  for (int64_t i = 0; i < numbers_; ++i) static_cast<int64_t*>(numbers)[i] = EntryOf<uint16_t>(action, i);
}

ActionHeadImpl::ActionHeadImpl(int64_t features, const ActionDistribution& distribution)
    : LinearImpl(features, distribution.is_box() ? distribution.numbers() : distribution.parameters()) {
  if (distribution.is_box()) {
    log_deviation_ = register_parameter("log_deviation", torch::zeros({distribution.numbers()}));
  }
}

torch::Tensor ActionHeadImpl::forward(const torch::Tensor& features) {
  const torch::Tensor out = LinearImpl::forward(features);
  return log_deviation_.defined() ? torch::cat({out, log_deviation_.expand_as(out)}, -1) : out;
}

}  // namespace sibyl
