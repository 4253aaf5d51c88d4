#include "annotator/quality/agreement.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/random.h"

namespace sibyl::annotator {
namespace {

constexpr int kSamples = 1000;
constexpr int kBins = 10;
constexpr double kNormal95 = 1.959964;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// `bad` is sorted.
double Area(absl::Span<const double> good, absl::Span<const double> bad) {
  double sum = 0;
  for (const double score : good) {
    const auto below = std::lower_bound(bad.begin(), bad.end(), score),
               above = std::upper_bound(below, bad.end(), score);
    sum += static_cast<double>(below - bad.begin()) + 0.5 * static_cast<double>(above - below);
  }
  return sum / static_cast<double>(good.size()) / static_cast<double>(bad.size());
}

}  // namespace

double AreaUnderCurve(absl::Span<const double> good, absl::Span<const double> bad) {
  if (good.empty() || bad.empty()) return kNaN;
  std::vector<double> sorted(bad.begin(), bad.end());
  std::sort(sorted.begin(), sorted.end());
  return Area(good, sorted);
}

Interval Auc(absl::Span<const double> good, absl::Span<const double> bad) {
  if (good.empty() || bad.empty()) return {kNaN, kNaN, kNaN};
  Random random(1);
  std::vector<double> areas(kSamples), some_good(good.size()), some_bad(bad.size());
  for (double& area : areas) {
    for (double& score : some_good) score = good[random.Below(good.size())];
    for (double& score : some_bad) score = bad[random.Below(bad.size())];
    std::sort(some_bad.begin(), some_bad.end());
    area = Area(some_good, some_bad);
  }
  std::sort(areas.begin(), areas.end());
  return {AreaUnderCurve(good, bad), areas[kSamples / 40], areas[kSamples - 1 - kSamples / 40]};
}

Interval Share(uint64_t hits, uint64_t of) {
  if (of == 0) return {kNaN, kNaN, kNaN};
  const auto n = static_cast<double>(of);
  const double p = static_cast<double>(hits) / n, z2 = kNormal95 * kNormal95;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kNormal95 * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {p, std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

double CalibrationError(absl::Span<const double> good, absl::Span<const double> bad) {
  if (good.empty() && bad.empty()) return kNaN;
  double probability[kBins] = {}, right[kBins] = {};  // sums
  const auto add = [&](double p, bool is_good) {
    const int bin = std::clamp(static_cast<int>(p * kBins), 0, kBins - 1);
    probability[bin] += p;
    right[bin] += is_good;
  };
  for (const double p : good) add(p, true);
  for (const double p : bad) add(p, false);
  double error = 0;
  for (int bin = 0; bin < kBins; ++bin) error += std::abs(probability[bin] - right[bin]);
  return error / static_cast<double>(good.size() + bad.size());
}

void Agreement::Add(const std::string& first, const std::string& second) {
  ++pairs_;
  same_ += first == second;
  ++counts_[first].first;
  ++counts_[second].second;
}

double Agreement::Kappa() const {
  if (pairs_ == 0) return 0;
  const auto n = static_cast<double>(pairs_);
  double chance = 0;
  for (const auto& [label, count] : counts_)
    chance += (static_cast<double>(count.first) / n) * (static_cast<double>(count.second) / n);
  return chance >= 1 ? 0 : (static_cast<double>(same_) / n - chance) / (1 - chance);
}

}  // namespace sibyl::annotator
