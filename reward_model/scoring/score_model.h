#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/tally/tallies.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// Gives captions their scores. Coordinator calls it under its lock, so no call may take long. A model that learns does
// so on its own thread, and tells of new scores by TakeChanged. A Caption is valid during the call only; a model that
// needs the text later keeps shared_text.
class ScoreModel {
 public:
  virtual ~ScoreModel() = default;

  // RewardModelHello.kind: "retrieval", ...
  virtual std::string kind() const = 0;

  // A caption's labels have changed. `tally` counts all labels. `new_answers` of its answers were not observed before.
  virtual void Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) = 0;
  // Two captions were compared, with an answer, for the first time in this order.
  virtual void ObserveComparison(const Caption& first, const Caption& second, double first_better) = 0;
  // All labels are void: forgets what was learned from them. Labels that still count are observed anew.
  virtual void Restart() = 0;
  // The caption is no longer known: drops its score. What was learned from its labels may stay.
  virtual void Forget(uint64_t id) = 0;

  // Writes the raw score of each caption to `scores`; nullopt: it has no score yet. The spans have equal length.
  virtual void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) = 0;
  // What turns these scores into rewards, except the threshold (threshold.h).
  virtual v1::RewardTransform transform() const = 0;
  // ScoreUpdate.score_version.
  virtual uint64_t score_version() const = 0;

  // Whether the model needs all captions and their counts now. OfferCaptions then gives them, in pieces.
  virtual bool WantsCaptions() const { return false; }
  virtual void OfferCaptions(absl::Span<const Caption* const> piece, bool last) {}
  // Takes at most `limit` ids of captions whose score may have changed without being observed. A result of fewer than
  // `limit` is complete.
  virtual std::vector<uint64_t> TakeChanged(size_t limit) { return {}; }
  // Whether the caption's score is older than the newest version. A caption that is seen is then scored anew.
  virtual bool IsStale(const Caption& caption) const { return false; }
  // How unsure the model is about a caption (`other` is nullptr), or about which of two captions is better. At least 0;
  // infinite where it has no idea. Compare numbers of captions with each other, and numbers of pairs with each other.
  virtual double Uncertainty(const Caption& caption, const Caption* other) const { return 0; }

  // Writes what was learned into the run's folder, durably and atomically. Any thread, without Coordinator's lock.
  virtual absl::Status Save(const std::string& run_dir) { return absl::OkStatus(); }
  // Goes on from what Save wrote. Call it when the labels have been observed, before anything else. What was not saved
  // is learned anew. FailedPrecondition: the file is of another network.
  virtual absl::Status Load(const std::string& run_dir) { return absl::OkStatus(); }
};

}  // namespace sibyl::reward_model
