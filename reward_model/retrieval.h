#pragma once

#include "reward_model/score_model.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// ONI's retrieval: a caption's score is the mean probability of the good label over its answers; a caption without an
// answer has none. The version is the number of answers.
class Retrieval : public ScoreModel {
 public:
  explicit Retrieval(const v1::RewardModelConfig& config);

  std::string kind() const override { return "retrieval"; }
  void Observe(const Caption& caption, const v1::Label& label) override;
  void Restart(const CaptionBook& book) override;
  void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) override;
  v1::RewardTransform transform() const override { return transform_; }
  uint64_t version() const override { return answers_; }
  uint64_t generation() const override { return 0; }

 private:
  v1::RewardTransform transform_;
  uint64_t answers_ = 0;
};

}  // namespace sibyl::reward_model
