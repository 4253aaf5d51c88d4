#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace sibyl::reward_model {

// What is known of one caption.
struct Caption {
  // Kept in the checkpoint (RewardCaption).
  uint64_t id = 0;
  std::string text;            // canonical; empty: not received yet; it never changes once it is there
  std::string context;         // what was in view when it was first seen; empty: none
  uint64_t count = 0;          // steps of this run whose caption it was, over learner incarnations
  uint64_t last_step = 0;      // environment step at which it was last seen
  bool asked = false;          // a query about it was accepted
  uint32_t answers = 0;        // labels with an answer; of a ranking, comparisons
  double good_sum = 0;         // sum of their probabilities of the good label, or that it is better
  uint32_t unanswered = 0;     // labels with any other outcome
  uint64_t learner_count = 0;  // the current learner incarnation's count when it last told it

  // This process only.
  uint32_t waiting = 0;     // queries for its sake that the annotator has (or will have in a moment), without a label
  bool refused = false;     // the annotator calls the query invalid; it is not offered again
  bool superseded = false;  // its labels are of a log that is gone; the next label replaces them
  bool dirty = false;       // listed among those whose score may have changed
  bool resend = false;      // the learner is to get its score again, changed or not
  bool sent = false;        // `score` is in the table that the updates so far make
  float score = 0;

  bool labelled() const { return answers + unanswered > 0; }
  // It may be asked about: it was seen `often` times, and has fewer than `wanted` labels.
  bool askable(uint32_t wanted, uint64_t often) const {
    return !text.empty() && count >= often && waiting == 0 && !refused && answers + unanswered < wanted;
  }
};

// All captions, by id. A Caption never moves and is never removed. One thread at a time.
class CaptionBook {
 public:
  enum class TextOutcome {
    kNew,        // the text was missing
    kSame,       // known already
    kMismatch,   // the id is not the text's: nothing is changed
    kCollision,  // another text has this id: the first one stays
  };

  Caption* Find(uint64_t id);
  // Finds it, or adds it without a text. `id` is not 0.
  Caption& FindOrAdd(uint64_t id);

  // Gives a caption, which is added if need be, its text. `context` is kept with a new text.
  TextOutcome SetText(uint64_t id, absl::string_view text, absl::string_view context);

  // The learner that counts from now on is another incarnation: its counts start from 0.
  void StartLearnerIncarnation();
  // The learner's count of a caption, cumulative since its incarnation began. True when it had not offered the caption
  // before in this incarnation, or has forgotten it since (its count went down).
  static bool SetLearnerCount(Caption& caption, uint64_t count, uint64_t last_step);

  std::deque<Caption>& captions() { return captions_; }
  const std::deque<Caption>& captions() const { return captions_; }
  size_t size() const { return captions_.size(); }
  // Approximate memory, texts and index included.
  size_t bytes() const;

 private:
  std::deque<Caption> captions_;
  absl::flat_hash_map<uint64_t, Caption*> by_id_;
  size_t text_bytes_ = 0;
};

}  // namespace sibyl::reward_model
