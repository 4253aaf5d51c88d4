#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/scoring/score_log.h"
#include "reward_model/scoring/score_model.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// Keeps a learner's table of scores equal to the model's: knows which scores the updates so far have put into that
// table, and makes the next update or a snapshot, in parts of at most kRowsPerUpdate rows. One thread at a time.
class ScoreFeed {
 public:
  // Scores and removals in one ScoreUpdate, at most.
  static constexpr size_t kRowsPerUpdate = 16384;

  // `captions` and `model` must outlive this. `history_rows`: ScoreLog's.
  ScoreFeed(const CaptionBook& captions, ScoreModel& model, size_t history_rows)
      : captions_(captions), model_(model), log_(history_rows) {}

  // The caption's score may have changed, or the caption was forgotten.
  void MarkChanged(uint64_t id);
  // The same, and the learner is to get the score again even where it has not changed.
  void Resend(uint64_t id);

  // RewardTransform.threshold of the updates from now on.
  void SetThreshold(float threshold) { threshold_ = threshold; }

  // The next update; nullopt: the table is up to date. Not during a snapshot.
  std::optional<v1::ScoreUpdate> Next();
  // The updates after `last_sequence`; nullopt: they are not all known, so send a snapshot.
  std::optional<std::vector<v1::ScoreUpdate>> Since(uint64_t last_sequence) const { return log_.Since(last_sequence); }

  // Begins a snapshot (anew); NextOfSnapshot gives its parts, the last one without `more`. Scores stand still until
  // then.
  void BeginSnapshot();
  v1::ScoreUpdate NextOfSnapshot();
  bool in_snapshot() const { return in_snapshot_; }

  size_t log_rows() const { return log_.rows(); }
  // Approximate memory.
  size_t bytes() const;

 private:
  struct State {
    float score = 0;
    bool sent = false;     // `score` is in the table that the updates so far make
    bool changed = false;  // listed in changed_
    bool resend = false;
  };

  v1::ScoreUpdate NewUpdate() const;
  v1::ScoreUpdate Number(v1::ScoreUpdate update);

  const CaptionBook& captions_;
  ScoreModel& model_;
  ScoreLog log_;
  absl::flat_hash_map<uint64_t, State> states_;  // captions that are sent or changed
  std::deque<uint64_t> changed_;
  float threshold_ = 0;
  std::string sent_transform_;
  bool in_snapshot_ = false;
  size_t snapshot_place_ = 0;
};

}  // namespace sibyl::reward_model
