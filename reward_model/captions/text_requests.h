#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace sibyl::reward_model {

// Which captions' texts to ask the learner for: each once, a bounded number at a time, and again when an answer does
// not come. One thread at a time.
class TextRequests {
 public:
  // Ids that have been asked for and not answered, at most.
  static constexpr size_t kMaxInFlight = 8192;
  // After so long a request counts as not answered, and the id goes to the end of the queue.
  static constexpr absl::Duration kRetryAfter = absl::Seconds(30);

  // The text is missing. Nothing happens where that is known.
  void Want(uint64_t id);
  // The text has come.
  void Got(uint64_t id) { missing_.erase(id); }
  // There is another learner, which will say itself which captions it has.
  void Clear();
  // What to ask for now.
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
