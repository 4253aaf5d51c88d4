#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace sibyl::judge {

struct Interval {
  double value = 0, low = 0, high = 0;
};

// Area under the ROC curve: the probability that a good one has a larger score than a bad one, ties counting half. 95 %
// by 1,000 bootstrap samples of both kinds, drawn by a fixed seed. NaN where one kind is missing.
Interval Auc(absl::Span<const double> good, absl::Span<const double> bad);

// A share, with Wilson's interval of 95 %. NaN of nothing.
Interval Share(uint64_t hits, uint64_t of);

}  // namespace sibyl::judge
