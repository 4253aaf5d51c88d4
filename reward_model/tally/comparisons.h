#pragma once

#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace sibyl::reward_model {

// What the judge said when it was asked about two captions in this order.
struct Comparison {
  bool answered = false;    // else it abstained, or nothing could be read
  double first_better = 0;  // probability that the first is better, a tie counting half
};

// Captions' ids in the order in which they were asked.
using OrderedPair = std::pair<uint64_t, uint64_t>;

// The comparisons so far, one for each ordered pair; the judge is asked once. One thread at a time.
class Comparisons {
 public:
  // nullptr: there is none.
  const Comparison* Find(OrderedPair pair) const;
  // Asked in one order or the other.
  bool Has(uint64_t a, uint64_t b) const { return Find({a, b}) != nullptr || Find({b, a}) != nullptr; }
  // Adds one that is not there, or an answer in the place of an attempt without one.
  void Add(OrderedPair pair, const Comparison& comparison);
  void Clear();

  const absl::flat_hash_map<OrderedPair, Comparison>& all() const { return all_; }
  // Pairs that were answered in both orders, and those of them where the judge preferred the caption at the same place
  // both times.
  uint64_t both_orders() const { return both_orders_; }
  uint64_t flips() const { return flips_; }

 private:
  absl::flat_hash_map<OrderedPair, Comparison> all_;
  uint64_t both_orders_ = 0, flips_ = 0;
};

}  // namespace sibyl::reward_model
