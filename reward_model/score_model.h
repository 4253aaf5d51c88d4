#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "reward_model/caption_book.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// What gives a caption a score: a table of labels, or something that learns from them. Called under RewardModel's lock,
// so no call may take long; a model that learns does so on a thread of its own and shows the result as a new
// generation.
class ScoreModel {
 public:
  virtual ~ScoreModel() = default;

  // RewardModelHello.kind: "retrieval", ...
  virtual std::string kind() const = 0;

  // A label has come; the caption's tally (answers, good_sum, unanswered) counts it already.
  virtual void Observe(const Caption& caption, const v1::Label& label) = 0;
  // The captions' tallies were changed as a whole (a checkpoint was read, the judge changed): start over from `book`.
  virtual void Restart(const CaptionBook& book) = 0;

  // The raw score of each caption; nullopt: it has none. The spans are of equal length.
  virtual void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) = 0;

  // What turns these scores into rewards.
  virtual v1::RewardTransform transform() const = 0;
  // ScoreUpdate.version.
  virtual uint64_t version() const = 0;
  // Rises when the score of any caption may have changed; between two rises only captions that were observed may get
  // another score.
  virtual uint64_t generation() const = 0;
};

}  // namespace sibyl::reward_model
