#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sibyl::reward_model {

// A caption with half the count of another is as urgent when it was seen this many environment steps later.
inline constexpr double kUrgencyHalfLifeSteps = 1e6;

// How urgent it is to ask about a caption: the logarithm (base 2) of its count, discounted by the time since it was
// last seen: log2(count * 2^-((now - last_step) / half-life)), less the part that is the same for all captions at any
// one time. So frequent captions come first, new ones before old ones, and the order of two captions never changes
// while neither is seen.
double Urgency(uint64_t count, uint64_t last_step);

// A bounded number of captions that wait to be asked about, in the order of their urgency. One thread at a time.
class Candidates {
 public:
  explicit Candidates(size_t capacity) : capacity_(capacity) {}

  // Adds a caption, or changes its urgency. Where that makes too many, the least urgent caption is dropped, perhaps
  // this one. A dropped caption comes back when it is added again.
  void Offer(uint64_t id, double urgency);
  // Does nothing where the caption is no candidate.
  void Remove(uint64_t id);
  // Removes and returns the `limit` most urgent captions, most urgent first.
  std::vector<uint64_t> Take(size_t limit);

  size_t size() const { return urgency_.size(); }
  // Captions that were dropped so far.
  uint64_t dropped() const { return dropped_; }
  // Approximate memory: a tree node has three pointers and a colour.
  size_t bytes() const {
    return order_.size() * (4 * sizeof(void*) + sizeof(std::pair<double, uint64_t>)) +
           urgency_.capacity() * (sizeof(uint64_t) + sizeof(double) + 1);
  }

 private:
  const size_t capacity_;
  std::set<std::pair<double, uint64_t>> order_;
  absl::flat_hash_map<uint64_t, double> urgency_;
  uint64_t dropped_ = 0;
};

}  // namespace sibyl::reward_model
