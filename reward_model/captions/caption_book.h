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
  uint32_t unsaved_at = 0;  // place in CaptionBook::unsaved_, from 1; 0: not listed
  uint32_t row_file = 0;    // number of the file that the caption was last saved in, and its text
  uint32_t text_file = 0;
  uint64_t learner_count = 0;  // what learner incarnation `learner` last told
  uint32_t learner = 0;        // CaptionBook::learner_ at that time
  uint32_t place = 0;          // in CaptionBook::captions_
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
  // The part of `count` that the current learner incarnation has told.
  uint64_t LearnerCount(const Caption& caption) const;

  // Whether the caption has labels, which decides how soon it is forgotten.
  void SetLabelled(Caption& caption, bool labelled);
  // The caption to forget next while the book is over its bounds, else nullptr; also where all captions are held.
  Caption* Excess(absl::FunctionRef<bool(const Caption&)> held);
  void Forget(Caption& caption);

  // --- Checkpoints ---
  // A checkpoint consists of files' rows: all captions go into a new file, later those that have changed.

  // The caption has changed since it was saved; SetText, SetLearnerCount and Forget say so themselves.
  void Touch(Caption& caption);
  // What is saved from now on goes into a new file, which is to have everything.
  void BeginFile();
  // Takes the ids of captions in the file that were forgotten, at most `limit`.
  std::vector<uint64_t> TakeForgotten(size_t limit);
  // The next caption to save, nullptr: all are saved. `with_text`: the file has not its text yet.
  const Caption* TakeUnsaved(bool* with_text);
  // Captions that have changed since they were saved.
  size_t unsaved() const { return unsaved_.size(); }
  // Numbers of learner incarnations: the current one's, and the one whose count a caption has.
  uint32_t learner() const { return learner_; }
  uint32_t LearnerOf(const Caption& caption) const { return caption.learner; }
  uint64_t ToldCount(const Caption& caption) const { return caption.learner_count; }
  void RestoreLearner(uint32_t learner) { learner_ = learner; }
  void RestoreCounts(Caption& caption, uint64_t count, uint64_t learner_count, uint32_t learner, uint64_t last_step);
  // After a checkpoint was read: captions count as reported in the order of their last step.
  void OrderByLastStep();

  // Places number the captions for a walk in pieces. The place of a forgotten caption is empty (nullptr) or taken by
  // another.
  size_t places() const { return captions_.size(); }
  const Caption* At(size_t place) const { return captions_[place].id == 0 ? nullptr : &captions_[place]; }
  Caption* At(size_t place) { return captions_[place].id == 0 ? nullptr : &captions_[place]; }

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
  void Untouch(Caption& caption);
  void LinkNewest(Caption& caption);

  const Bounds bounds_;
  std::deque<Caption> captions_;  // a forgotten one has id 0
  std::vector<uint32_t> free_places_;
  absl::flat_hash_map<uint64_t, Caption*> by_id_;
  List lists_[2];         // without and with labels, in the order of the learner's last report
  uint32_t learner_ = 1;  // counts learner incarnations
  // Places of captions that have changed, ids of forgotten captions that the file has, and the next place to be saved
  // because the file is new.
  std::vector<uint32_t> unsaved_;
  std::vector<uint64_t> forgotten_unsaved_;
  size_t next_place_ = std::numeric_limits<size_t>::max();
  uint32_t file_ = 1;
  uint64_t forgotten_ = 0;
};

}  // namespace sibyl::reward_model
