#include "reward_model/scoring/threshold.h"

#include <algorithm>
#include <cmath>

#include "common/caption.h"
#include "common/log.h"

namespace sibyl::reward_model {
namespace {

// Captions with an answer before a threshold is computed from them.
constexpr size_t kFewest = 8;
// Share of the captions at either end among which no gap is looked for.
constexpr size_t kEnd = 8;

double Logit(double p) {
  constexpr double kLeast = 1e-6;  // a hard label is an infinite one else
  p = std::clamp(p, kLeast, 1 - kLeast);
  return std::log(p / (1 - p));
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

Threshold::Threshold(const v1::RewardModelConfig& config)
    : kind_(config.threshold_kind()), parameter_(config.threshold()) {
  if (kind_ == v1::THRESHOLD_KIND_NEUTRAL) {
    for (const std::string& text : config.neutral_captions()) neutral_.push_back(CaptionId(text));
  }
  Restart();
}

void Threshold::Restart() {
  neutral_tallies_.clear();
  scores_.clear();
  next_size_ = kFewest;
  value_ = kind_ == v1::THRESHOLD_KIND_ABSOLUTE ? static_cast<float>(parameter_) : 1;
}

void Threshold::Observe(uint64_t id, const Tally& tally) {
  switch (kind_) {
    case v1::THRESHOLD_KIND_NEUTRAL:
      if (std::find(neutral_.begin(), neutral_.end(), id) == neutral_.end() || tally.labels() == 0) return;
      neutral_tallies_[id] = tally;
      if (neutral_tallies_.size() == neutral_.size()) ComputeNeutral();
      break;
    case v1::THRESHOLD_KIND_QUANTILE:
    case v1::THRESHOLD_KIND_GAP:
      if (tally.answers == 0) return;
      scores_[id] = static_cast<float>(tally.good_sum / tally.answers);
      if (scores_.size() < next_size_) return;
      next_size_ *= 2;
      ComputeFromScores();
      break;
    default:
      break;
  }
}

void Threshold::Forget(uint64_t id) { scores_.erase(id); }

void Threshold::ComputeNeutral() {
  double sum = 0;
  int answered = 0;
  for (const auto& [id, tally] : neutral_tallies_) {
    if (tally.answers == 0) continue;
    sum += Logit(tally.good_sum / tally.answers);
    ++answered;
  }
  if (answered == 0) {
    spdlog::warn(
        "the judge answers for none of reward_model.neutral_captions, so captions are paid above a probability of 0.5; "
        "set other neutral captions, or reward_model.threshold_kind");
  }
  value_ = answered == 0 ? 0.5f : static_cast<float>(Sigmoid(sum / answered + parameter_));
}

void Threshold::ComputeFromScores() {
  std::vector<float> sorted;
  for (const auto& [id, score] : scores_) sorted.push_back(score);
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  if (kind_ == v1::THRESHOLD_KIND_QUANTILE) {
    const auto below = static_cast<size_t>(std::ceil(parameter_ * static_cast<double>(n)));
    value_ = sorted[std::clamp<size_t>(below, 1, n) - 1];
    return;
  }
  double widest = -1;
  for (size_t i = n / kEnd; i + 1 < n - n / kEnd; ++i) {
    const double low = Logit(sorted[i]), high = Logit(sorted[i + 1]);
    if (high - low <= widest) continue;
    widest = high - low;
    value_ = static_cast<float>(Sigmoid((low + high) / 2));
  }
}

}  // namespace sibyl::reward_model
