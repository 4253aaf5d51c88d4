#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace sibyl::reward_model {

// What is known of one caption. Its labels, questions and scores are kept by the other parts under its id.
struct Caption {
  uint64_t id = 0;
  std::shared_ptr<const std::string> shared_text;  // canonical; nullptr: not received yet; never changes once it is set
  std::string context;                             // what was in view when it was first seen; empty: none
  uint64_t count = 0;                              // steps of this run whose caption it was, over learner incarnations
  uint64_t last_step = 0;                          // environment step at which it was last seen

  // Empty: not received yet.
  const std::string& text() const {
    static const std::string none;
    return shared_text == nullptr ? none : *shared_text;
  }

 private:
  friend class CaptionBook;
  uint64_t learner_count = 0;  // what learner incarnation `learner` last told
  uint32_t learner = 0;        // CaptionBook::learner_ at that time
  uint32_t slot = 0;           // place in CaptionBook::captions_
  bool labelled = false;       // which list it is in
  Caption* older = nullptr;    // neighbours in that list
  Caption* newer = nullptr;
};

// The captions of a run: text and counts, by id. One thread at a time.
//
// Bounded: whoever adds captions asks Excess which one to forget, until nothing is left over. Captions without a label
// go first, those reported longest ago before others. They keep a quarter of the room, so that new captions find some
// although all old ones are labelled.
class CaptionBook {
 public:
  enum class TextOutcome {
    kNew,        // the text was missing
    kSame,       // known already
    kMismatch,   // the id is not the text's: nothing is changed
    kCollision,  // another text has this id: the first one stays
  };
  struct Bounds {
    size_t rows = std::numeric_limits<size_t>::max();
    size_t bytes = std::numeric_limits<size_t>::max();  // of texts and contexts
  };

  CaptionBook() : CaptionBook(Bounds()) {}  // without bounds
  explicit CaptionBook(Bounds bounds) : bounds_(bounds) {}
  CaptionBook(const CaptionBook&) = delete;
  CaptionBook& operator=(const CaptionBook&) = delete;

  // A pointer is valid until the caption is forgotten. nullptr: not known.
  Caption* Find(uint64_t id);
  const Caption* Find(uint64_t id) const;
  // Finds it, or adds it without a text. `id` is not 0.
  Caption& FindOrAdd(uint64_t id);

  // Gives a caption, which is added if need be, its text. `context` is kept with a new text.
  TextOutcome SetText(uint64_t id, absl::string_view text, absl::string_view context);

  // The learner that counts from now on is another incarnation: its counts start from 0.
  void StartLearnerIncarnation() { ++learner_; }
  // The learner's count of a caption, cumulative since its incarnation began. True when it had not offered the caption
  // before in this incarnation, or has forgotten it since (its count went down).
  bool SetLearnerCount(Caption& caption, uint64_t count, uint64_t last_step);
  // The part of `count` that the current learner incarnation has told, and back from a checkpoint.
  uint64_t LearnerCount(const Caption& caption) const;
  void RestoreCounts(Caption& caption, uint64_t count, uint64_t learner_count, uint64_t last_step);

  // Whether the caption has labels, which decides how soon it is forgotten.
  void SetLabelled(Caption& caption, bool labelled);
  // The caption to forget next while the book is over its bounds, else nullptr; also where all captions are held.
  Caption* Excess(absl::FunctionRef<bool(const Caption&)> held);
  void Forget(Caption& caption);
  // After a checkpoint was read: captions count as reported in the order of their last step.
  void OrderByLastStep();

  // Slots number the captions for a walk in pieces; those of forgotten captions are empty (nullptr) or taken by others.
  size_t slots() const { return captions_.size(); }
  const Caption* At(size_t slot) const { return captions_[slot].id == 0 ? nullptr : &captions_[slot]; }
  Caption* At(size_t slot) { return captions_[slot].id == 0 ? nullptr : &captions_[slot]; }

  size_t size() const { return by_id_.size(); }
  // Bytes of texts and contexts.
  size_t text_bytes() const { return lists_[false].bytes + lists_[true].bytes; }
  // Approximate memory, texts and index included.
  size_t bytes() const;
  uint64_t forgotten() const { return forgotten_; }

 private:
  struct List {
    Caption* oldest = nullptr;
    Caption* newest = nullptr;
    size_t rows = 0, bytes = 0;
  };

  static size_t TextBytes(const Caption& caption) { return caption.text().size() + caption.context.size(); }
  void Unlink(Caption& caption);
  void LinkNewest(Caption& caption);

  const Bounds bounds_;
  std::deque<Caption> captions_;  // a forgotten one has id 0
  std::vector<uint32_t> free_slots_;
  absl::flat_hash_map<uint64_t, Caption*> by_id_;
  List lists_[2];         // without and with labels, in the order of the learner's last report
  uint32_t learner_ = 1;  // counts learner incarnations
  uint64_t forgotten_ = 0;
};

}  // namespace sibyl::reward_model
