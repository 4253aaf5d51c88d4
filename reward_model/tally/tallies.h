#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::reward_model {

// The labels of one caption; of a ranking, the comparisons that it is in.
struct Tally {
  uint32_t answers = 0;     // labels with an answer
  double good_sum = 0;      // sum of their probabilities of the good label, or that the caption is better
  uint32_t unanswered = 0;  // labels with any other outcome

  uint32_t labels() const { return answers + unanswered; }
};

// What one label adds to a tally.
struct Vote {
  bool answered = false;
  double good = 0;  // probability of the good label, or that the caption is better; 0 without an answer
};

// The labels so far, summed up by caption, and the place in the label log that is read next. One thread at a time.
//
// A label counts once, though it may come twice: from the log, and as the answer to a question whose label was known
// before the log was read that far (an early label).
class Tallies {
 public:
  // --- The log ---

  enum class Log {
    kSame,        // goes on where it was
    kAnother,     // the same judge with another log: it is read from its beginning, and its labels replace older ones
    kOtherJudge,  // all labels are dropped
  };
  // The annotator that is followed from now on.
  Log Follow(const v1::DescribeResponse& annotator);
  // A label is of the judge and prompt that are followed.
  bool IsOfThisJudge(const v1::Label& label) const { return label.judge() == judge_ && label.prompt() == prompt_; }
  const std::string& judge() const { return judge_; }
  const std::string& prompt() const { return prompt_; }
  // Identity of the log that next_sequence() counts in; empty: unknown.
  const std::string& log_id() const { return log_id_; }
  // Sequence of the label that is read next.
  uint64_t next_sequence() const { return next_sequence_; }
  void SetNextSequence(uint64_t next) { next_sequence_ = next; }

  // --- Tallies ---

  // Early labels included.
  Tally Of(uint64_t id) const;
  bool IsLabelled(uint64_t id) const { return Of(id).labels() > 0; }
  // A label from the log. Where the log has been replaced, the first one of a caption takes the place of all before.
  void Add(uint64_t id, Vote vote);
  // A label that came before the log was read up to its sequence; a caption has at most one such label.
  void AddEarly(uint64_t id, uint64_t sequence, Vote vote);
  // The log has come to this label of the caption. True where it came early: it is counted already.
  bool SettleEarly(uint64_t id, uint64_t sequence);
  void Forget(uint64_t id);

  // Captions with an answer, and labels without one, of all captions together.
  uint64_t captions_labelled() const { return captions_labelled_; }
  uint64_t labels_without_answer() const { return labels_without_answer_; }
  size_t size() const { return entries_.size(); }
  // Approximate memory.
  size_t bytes() const;

  // --- Checkpoints ---

  // A tally without labels that the log brings again after a restart from next_sequence().
  Tally Settled(uint64_t id) const;
  // Numbers of label logs: the one that is followed, and the one that the caption's last label came from. A tally of an
  // earlier log is superseded: the next label of the caption takes its place.
  uint32_t log() const { return log_; }
  uint32_t LogOf(uint64_t id) const;
  bool IsSuperseded(uint64_t id) const;
  void RestoreLog(const std::string& judge, const std::string& prompt, const std::string& log_id,
                  uint64_t next_sequence, uint32_t log);
  // In place of what is there.
  void Restore(uint64_t id, const Tally& tally, uint32_t log);
  // Drops all labels.
  void Clear();

 private:
  struct Entry {
    Tally tally;
    uint32_t log = 0;  // `log_` when the last label was added
  };
  struct EarlyLabel {
    uint64_t sequence;
    Vote vote;
  };

  static void AddTo(Tally& tally, Vote vote);
  // Takes a caption's tally out of the sums, or into them.
  void CountOut(uint64_t id);
  void CountIn(uint64_t id);

  std::string judge_, prompt_, log_id_;
  uint64_t next_sequence_ = 1;
  uint32_t log_ = 1;  // counts the logs that were followed
  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<uint64_t, EarlyLabel> early_;
  uint64_t captions_labelled_ = 0, labels_without_answer_ = 0;
};

}  // namespace sibyl::reward_model
