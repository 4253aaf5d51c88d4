#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "reward_model/asking/asker.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/learner_session.h"
#include "reward_model/tally/comparisons.h"
#include "reward_model/tally/tallies.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::reward_model {

// Format version of checkpoints.
inline constexpr uint32_t kCheckpointVersion = 2;

// Takes a checkpoint of the parts, in pieces, and fills the parts from one. One thread at a time.
class CheckpointSource {
 public:
  struct Parts {
    CaptionBook& captions;
    Tallies& tallies;
    Comparisons& comparisons;
    Asker& asker;
    LearnerSession& learner;
  };

  // The parts outlive this.
  CheckpointSource(const v1::Experiment& experiment, Parts parts);

  // --- Going on from a checkpoint ---

  // Takes a checkpoint's pieces in their order, then its head; before anything else is in the parts.
  void Restore(const v1::RewardModelPiece& piece);
  // FailedPrecondition names the field where the checkpoint is of another goal or label set.
  absl::Status FinishRestore(const v1::RewardModelHead& head);

  // --- Taking one ---

  // `whole`: everything goes into a new file. Else what has changed since the last checkpoint is appended to that file.
  void Begin(bool whole);
  // The next piece, of at most `rows` rows and some megabytes of text; the last one has a head. Captions may change
  // between two pieces: those that are saved already are then saved once more.
  v1::RewardModelPiece Next(size_t rows);
  // Another judge is followed: all labels that the file has are void.
  void VoidLabels() { labels_void_ = true; }

 private:
  v1::RewardModelHead Head() const;
  void SaveCaption(const Caption& caption, bool with_text, v1::RewardCaption* to) const;

  const std::string goal_;
  const bool send_context_;
  const google::protobuf::RepeatedPtrField<std::string> label_set_;
  Parts parts_;
  bool labels_void_ = false;  // the file is to say so
};

}  // namespace sibyl::reward_model
