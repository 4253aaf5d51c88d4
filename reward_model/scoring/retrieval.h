#pragma once

#include "absl/container/flat_hash_map.h"
#include "reward_model/scoring/score_model.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// ONI's retrieval: a caption's score is the mean probability of the good label over its answers; a caption without an
// answer has none. The version is the number of answers.
class Retrieval : public ScoreModel {
 public:
  explicit Retrieval(const v1::RewardModelConfig& config);

  std::string kind() const override { return "retrieval"; }
  void Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) override;
  void ObserveComparison(const Caption&, const Caption&, double) override {}  // it asks for none
  void Restart() override;
  void Forget(uint64_t id) override { scores_.erase(id); }
  void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) override;
  v1::RewardTransform transform() const override { return transform_; }
  uint64_t score_version() const override { return answers_; }

 private:
  v1::RewardTransform transform_;
  absl::flat_hash_map<uint64_t, float> scores_;
  uint64_t answers_ = 0;
};

}  // namespace sibyl::reward_model
