#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace sibyl::reward_model {

// Decides which captions' texts to ask the learner for. Each text is asked for once, a bounded number at a time, and
// again when no answer comes. One thread at a time.
class TextRequests {
 public:
  // The most ids that are asked for and not answered.
  static constexpr size_t kMaxInFlight = 8192;
  // A request that is older counts as not answered; its id goes to the end of the queue.
  static constexpr absl::Duration kRetryAfter = absl::Seconds(30);

  // The caption's text is missing. Does nothing where that is known.
  void Want(uint64_t id);
  // The text has come.
  void Got(uint64_t id) { missing_.erase(id); }
  // Another learner has connected. It tells which captions it has.
  void Clear();
  // The ids to ask for now.
  std::vector<uint64_t> Next(absl::Time now);

  // Texts that are missing.
  size_t missing() const { return missing_.size(); }

 private:
  // When it was last asked for; InfinitePast: waits in queue_.
  absl::flat_hash_map<uint64_t, absl::Time> missing_;
  // Ids in the order in which they are asked for, and those asked for by time; entries that are not in missing_ (or
  // there with another time) count no longer.
  std::deque<uint64_t> queue_;
  std::deque<std::pair<absl::Time, uint64_t>> in_flight_;
};

}  // namespace sibyl::reward_model
