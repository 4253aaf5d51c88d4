#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "reward_model/tally/tallies.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// At or below which score a caption is paid nothing (reward_model.threshold_kind). Follows the labels as they come and
// changes rarely, so that the rewards of labelled captions stay as they are:
//   ABSOLUTE: never.
//   NEUTRAL: once, when every neutral caption has a label; a neutral caption that gets another answer changes it again.
//   QUANTILE, GAP: when 8, 16, 32, ... captions have an answer.
// One thread at a time.
class Threshold {
 public:
  explicit Threshold(const v1::RewardModelConfig& config);

  // Ids of the texts of reward_model.neutral_captions, which are asked about first; none for other kinds than NEUTRAL.
  const std::vector<uint64_t>& neutral() const { return neutral_; }

  // A caption's labels have changed.
  void Observe(uint64_t id, const Tally& tally);
  // The caption is no longer known. A neutral caption's label counts still.
  void Forget(uint64_t id);
  // All labels are void.
  void Restart();

  // 1, above which no probability is, as long as too little is known.
  float value() const { return value_; }

 private:
  void ComputeNeutral();
  void ComputeFromScores();

  const v1::ThresholdKind kind_;
  const double parameter_;  // reward_model.threshold
  std::vector<uint64_t> neutral_;
  absl::flat_hash_map<uint64_t, Tally> neutral_tallies_;
  absl::flat_hash_map<uint64_t, float> scores_;  // of captions with an answer, for QUANTILE and GAP
  size_t next_size_ = 0;                         // of scores_, at which the threshold is computed again
  float value_ = 1;
};

}  // namespace sibyl::reward_model
