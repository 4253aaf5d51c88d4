#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// Numbers the score updates of this process, 1, 2, 3, ..., and remembers the last ones, so that a learner that was away
// gets exactly what it missed. One thread at a time.
class ScoreLog {
 public:
  // Rows (scores and removals) of the updates that are remembered, at most.
  explicit ScoreLog(size_t max_rows) : max_rows_(max_rows) {}

  // Numbers an update and remembers it. A part of a snapshot (`reset`, and what follows while `more` is set) makes
  // everything before and itself forgotten: whoever did not get all of it needs another one.
  v1::ScoreUpdate Append(v1::ScoreUpdate update);

  // The updates after `last_sequence`, in order; nullopt where they are not all known (0 included, and amid a
  // snapshot): send a snapshot.
  std::optional<std::vector<v1::ScoreUpdate>> Since(uint64_t last_sequence) const;

  // Of the last update; 0: none yet.
  uint64_t last_sequence() const { return last_sequence_; }
  // Rows that are remembered; an update counts one more.
  size_t rows() const { return rows_; }
  // Approximate memory.
  size_t bytes() const {
    return rows_ * (sizeof(uint64_t) + sizeof(float)) + history_.size() * sizeof(v1::ScoreUpdate);
  }

 private:
  const size_t max_rows_;
  uint64_t last_sequence_ = 0;
  bool in_snapshot_ = false;
  // Updates last_sequence_ - history_.size() + 1 .. last_sequence_.
  std::deque<v1::ScoreUpdate> history_;
  size_t rows_ = 0;
};

}  // namespace sibyl::reward_model
