#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/types/span.h"

namespace sibyl::annotator {

// A figure with its interval of 95 %.
struct Interval {
  double value = 0, low = 0, high = 0;
};

// Area under the ROC curve: the probability that a good one has a larger score than a bad one, ties counting half. NaN
// where one kind is missing.
double AreaUnderCurve(absl::Span<const double> good, absl::Span<const double> bad);

// The same with an interval by 1,000 bootstrap samples of both kinds, drawn by a fixed seed.
Interval Auc(absl::Span<const double> good, absl::Span<const double> bad);

// A share, with Wilson's interval (1927). NaN of nothing.
Interval Share(uint64_t hits, uint64_t of);

// Expected calibration error (Naeini et al. 2015) of the probabilities that good and bad ones were given to be good: in
// ten equal bins, how far the mean probability is from the share of good ones, weighted by the bins' sizes. NaN of
// nothing.
double CalibrationError(absl::Span<const double> good, absl::Span<const double> bad);

// Whether two readings of the same questions agree.
class Agreement {
 public:
  void Add(const std::string& first, const std::string& second);
  uint64_t pairs() const { return pairs_; }
  uint64_t same() const { return same_; }
  // Cohen's kappa: agreement beyond what the frequencies of the labels alone would give. 0 where it is not defined.
  double Kappa() const;

 private:
  uint64_t pairs_ = 0, same_ = 0;
  std::map<std::string, std::pair<uint64_t, uint64_t>> counts_;  // of each label, as first and as second
};

}  // namespace sibyl::annotator
