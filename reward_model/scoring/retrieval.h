#pragma once

#include "reward_model/scoring/score_model.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// ONI's retrieval: a caption's score is the mean probability of the good label over its answers; a caption without an
// answer has none. The version is the number of answers.
class Retrieval : public ScoreModel {
 public:
  explicit Retrieval(const v1::RewardModelConfig& config);

  std::string kind() const override { return "retrieval"; }
  void Observe(const Caption& caption, const v1::Label& label) override;
  void ObserveComparison(const Caption&, const Caption&, double) override {}  // it asks for none
  void Restart(const CaptionBook& book, const Comparisons& comparisons) override;
  void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) override;
  v1::RewardTransform transform() const override { return transform_; }
  uint64_t version() const override { return answers_; }

 private:
  v1::RewardTransform transform_;
  uint64_t answers_ = 0;
};

}  // namespace sibyl::reward_model
