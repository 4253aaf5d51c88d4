#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/tally/comparisons.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// What gives a caption a score: a table of labels, or something that learns from them. Called under Coordinator's lock,
// so no call may take long; a model that learns does so on a thread of its own and tells of new scores by TakeChanged.
class ScoreModel {
 public:
  virtual ~ScoreModel() = default;

  // RewardModelHello.kind: "retrieval", ...
  virtual std::string kind() const = 0;

  // A caption was classified; its tally (answers, good_sum, unanswered) counts the label already.
  virtual void Observe(const Caption& caption, const v1::Label& label) = 0;
  // Two captions were compared, with an answer, for the first time in this order.
  virtual void ObserveComparison(const Caption& first, const Caption& second, double first_better) = 0;
  // Labels were changed as a whole (a checkpoint was read, the judge changed): forget what was learned, start over from
  // these.
  virtual void Restart(const CaptionBook& book, const Comparisons& comparisons) = 0;

  // The raw score of each caption; nullopt: it has none (yet). The spans are of equal length.
  virtual void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) = 0;
  // What turns these scores into rewards.
  virtual v1::RewardTransform transform() const = 0;
  // ScoreUpdate.version.
  virtual uint64_t version() const = 0;

  // Called some 20 times a second. A model that learns may look at counts here.
  virtual void Tick(const CaptionBook& book) {}
  // Ids of captions whose score may have changed since the last call, those apart that were observed.
  virtual std::vector<uint64_t> TakeChanged() { return {}; }
  // Its score is of an older version, although a caption that is seen should have one of the newest: ask Score for it.
  virtual bool IsStale(const Caption& caption) const { return false; }
  // How unsure the model is of a caption (`other` is nullptr), or of which of two is better: 0 or more, only to be
  // compared among captions or among pairs; infinite where it has no idea.
  virtual double Uncertainty(const Caption& caption, const Caption* other) const { return 0; }

  // Without Coordinator's lock, any thread: writes what was learned into the run's folder, durably and atomically.
  virtual absl::Status Save(const std::string& run_dir) { return absl::OkStatus(); }
  // After Restart, before anything else: goes on from there; what was not saved is learned anew. FailedPrecondition: it
  // is of another network.
  virtual absl::Status Load(const std::string& run_dir) { return absl::OkStatus(); }
};

}  // namespace sibyl::reward_model
