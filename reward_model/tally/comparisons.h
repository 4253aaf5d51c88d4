#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sibyl::reward_model {

// What the judge said when it was asked about two captions in this order.
struct Comparison {
  bool answered = false;    // else it abstained, or nothing could be read
  double first_better = 0;  // probability that the first is better, a tie counting half
};

// Captions' ids in the order in which they were asked.
using OrderedPair = std::pair<uint64_t, uint64_t>;

// The comparisons so far, one for each ordered pair; the judge is asked once. Bounded: beyond `capacity` the oldest is
// forgotten. One thread at a time.
class Comparisons {
 public:
  struct Entry {
    OrderedPair pair;
    Comparison comparison;
  };

  explicit Comparisons(size_t capacity = std::numeric_limits<size_t>::max()) : capacity_(capacity) {}

  // nullptr: there is none. Valid until the next Add or Clear.
  const Comparison* Find(OrderedPair pair) const;
  // Asked in one order or the other.
  bool Has(uint64_t a, uint64_t b) const { return Find({a, b}) != nullptr || Find({b, a}) != nullptr; }
  // Adds one that is not there, or replaces one, e.g. an attempt without an answer by an answer.
  void Add(OrderedPair pair, const Comparison& comparison);
  void Clear();

  // Oldest first.
  const std::deque<Entry>& all() const { return entries_; }

  // What is saved from now on goes into a new file, which is to have everything.
  void BeginFile();
  // The next comparison to save; nullptr: all are saved.
  const Entry* TakeUnsaved();

  size_t size() const { return entries_.size(); }
  // Those that were forgotten because there were too many.
  uint64_t forgotten() const { return forgotten_; }
  // Pairs that were answered in both orders, and those of them where the judge preferred the caption at the same place
  // both times.
  uint64_t both_orders() const { return both_orders_; }
  uint64_t flips() const { return flips_; }
  // Approximate memory.
  size_t bytes() const;

 private:
  uint64_t end_number() const { return first_number_ + entries_.size(); }
  // Counts a pair that is there in both orders, or, with -1, no longer.
  void CountBothOrders(const Entry& entry, int sign);

  const size_t capacity_;
  std::deque<Entry> entries_;
  absl::flat_hash_map<OrderedPair, uint64_t> number_of_;
  // Entries have the numbers first_number_ .. end_number() - 1; a number is never used again.
  uint64_t first_number_ = 0;
  uint64_t unsaved_from_ = 0;       // number of the oldest entry that was never saved
  std::vector<uint64_t> replaced_;  // numbers of older ones that were replaced since they were saved
  uint64_t both_orders_ = 0, flips_ = 0, forgotten_ = 0;
};

}  // namespace sibyl::reward_model
