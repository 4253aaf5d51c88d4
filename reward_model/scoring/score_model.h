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

// Gives captions scores: a table of labels, or a network that learns from them. Called under Coordinator's lock, so no
// call may take long; a model that learns does so on a thread of its own and tells of new scores by TakeChanged. A
// Caption is valid during the call only; a model that needs its text later keeps shared_text.
class ScoreModel {
 public:
  virtual ~ScoreModel() = default;

  // RewardModelHello.kind: "retrieval", ...
  virtual std::string kind() const = 0;

  // A caption's labels have changed. `tally` counts all of them; `new_answers` of its answers were not observed before.
  virtual void Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) = 0;
  // Two captions were compared, with an answer, for the first time in this order.
  virtual void ObserveComparison(const Caption& first, const Caption& second, double first_better) = 0;
  // All labels are void: forget what was learned from them. The labels that count are observed anew.
  virtual void Restart() = 0;
  // The caption is no longer known: drop its score. What was learned from its labels may stay.
  virtual void Forget(uint64_t id) = 0;

  // The raw score of each caption; nullopt: it has none (yet). The spans are of equal length.
  virtual void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) = 0;
  // What turns these scores into rewards, except the threshold (threshold.h).
  virtual v1::RewardTransform transform() const = 0;
  // ScoreUpdate.version.
  virtual uint64_t version() const = 0;

  // The model needs all captions and their counts now: hand them over by OfferCaptions, in pieces.
  virtual bool WantsCaptions() const { return false; }
  virtual void OfferCaptions(absl::Span<const Caption* const> piece, bool last) {}
  // Takes at most `limit` ids of captions whose score may have changed, those apart that were observed. Fewer than
  // `limit`: that was all.
  virtual std::vector<uint64_t> TakeChanged(size_t limit) { return {}; }
  // Its score is of an older version, although a caption that is seen should have one of the newest: ask Score for it.
  virtual bool IsStale(const Caption& caption) const { return false; }
  // How unsure the model is of a caption (`other` is nullptr), or of which of two is better: 0 or more, only to be
  // compared among captions or among pairs; infinite where it has no idea.
  virtual double Uncertainty(const Caption& caption, const Caption* other) const { return 0; }

  // Without Coordinator's lock, any thread: writes what was learned into the run's folder, durably and atomically.
  virtual absl::Status Save(const std::string& run_dir) { return absl::OkStatus(); }
  // Once the labels were observed, before anything else: goes on from there; what was not saved is learned anew.
  // FailedPrecondition: it is of another network.
  virtual absl::Status Load(const std::string& run_dir) { return absl::OkStatus(); }
};

}  // namespace sibyl::reward_model
