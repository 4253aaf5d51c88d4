#include "reward_model/scoring/prequential.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace sibyl::reward_model {

void Prequential::Add(double predicted, double target) {
  if (target == 0.5) return;
  pairs_.push_back({predicted, target});
  if (pairs_.size() > window_) pairs_.pop_front();
}

double Prequential::Accuracy() const {
  if (pairs_.empty()) return 0;
  const auto right = [](const Pair& pair) { return (pair.predicted > 0.5) == (pair.target > 0.5); };
  return static_cast<double>(std::count_if(pairs_.begin(), pairs_.end(), right)) / static_cast<double>(pairs_.size());
}

double Prequential::CalibrationError() const {
  constexpr size_t kBins = 10;
  std::array<double, kBins> difference = {};
  for (const Pair& pair : pairs_) {
    const auto bin = static_cast<size_t>(pair.predicted * kBins);
    difference[std::min(bin, kBins - 1)] += pair.predicted - pair.target;
  }
  double sum = 0;
  for (const double bin : difference) sum += std::abs(bin);
  return pairs_.empty() ? 0 : sum / static_cast<double>(pairs_.size());
}

double Prequential::GoodShare() const {
  double sum = 0;
  for (const Pair& pair : pairs_) sum += pair.target;
  return pairs_.empty() ? 0 : sum / static_cast<double>(pairs_.size());
}

}  // namespace sibyl::reward_model
