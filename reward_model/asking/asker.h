#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "common/random.h"
#include "common/runtime/clock.h"
#include "reward_model/asking/candidates.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/scoring/score_model.h"
#include "reward_model/tally/comparisons.h"
#include "reward_model/tally/tallies.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Queries on their way to the annotator.
struct Questions {
  // Which connection to the annotator they were made for.
  uint64_t connection = 0;
  v1::AskRequest request;
};

// What a question is about: (caption, 0), or two captions in the order in which they are asked.
OrderedPair SubjectOf(const v1::Query& query);

// Decides what to ask the annotator, and knows what was asked. One thread at a time.
//
// A caption may be asked about once it was seen reward_model.ask_after times, has a text, has fewer labels than wanted
// and is in no question that waits for its label. Candidates are bounded by reward_model.max_candidates, questions that
// wait for a label by reward_model.queue_target.
class Asker {
 public:
  // What the choice depends on; only read.
  struct Knowledge {
    const CaptionBook& captions;
    const Tallies& tallies;
    const Comparisons& comparisons;
    const ScoreModel& model;
  };

  // `knowledge` must outlive this. `seed` of the choice of partners for comparisons.
  Asker(const v1::RewardModelConfig& config, Knowledge knowledge, uint64_t seed, Clock& clock);

  // --- The annotator ---

  // It can be reached. What waited for a label on an earlier connection becomes a candidate again: the annotator
  // answers known or duplicate, or has lost it and asks anew.
  void Connect();
  void Disconnect() { connected_ = false; }
  bool connected() const { return connected_; }
  // Questions were made for the connection that there is.
  bool IsCurrent(const Questions& questions) const { return questions.connection == connection_; }
  // How many more queries the annotator can take; `full`: it has refused one. One is offered every second while there
  // is no room.
  void SetRoom(size_t room, bool full);
  // A query has been answered, which makes room for another.
  void AddRoom();
  bool HasRoom() const { return room_ > 0; }

  // --- Questions ---

  // The caption is asked about before all others, whether it was seen or not, and is not forgotten.
  void AskFirst(uint64_t id) { first_.insert(id); }
  bool IsAskedFirst(uint64_t id) const { return first_.contains(id); }
  // Makes a caption a candidate, or changes its urgency, where it may be asked about. True where it is a candidate
  // then.
  bool Offer(const Caption& caption);
  // There is something to ask, and the annotator is to have it now.
  bool HasQuestions() const { return candidates_.size() > 0 && Wanted() > 0; }
  // The most urgent ones, as many as the annotator is to have now; perhaps none. They wait for a label from then on.
  Questions Take();
  // The annotator has accepted a question about the caption, or has answered one.
  void SetAsked(uint64_t id);
  bool IsAsked(uint64_t id) const;
  // The question has its label, or the annotator does not have it after all: it waits no longer. Nothing happens where
  // it did not wait.
  void Release(OrderedPair subject);
  // The caption has a label more; it is no candidate if that was the last one wanted.
  void OnLabel(const Caption& caption);
  // The annotator will never accept a question about the caption: it is not asked about again.
  void Refuse(uint64_t id);
  // A question for the caption's sake waits for its label.
  bool IsWaiting(uint64_t id) const;

  void Forget(uint64_t id);
  // Labels are of another judge from now on: everything may be asked again.
  void ForgetAll();

  uint64_t captions_asked() const { return captions_asked_; }
  size_t candidates() const { return candidates_.size(); }
  uint64_t candidates_dropped() const { return candidates_.dropped(); }
  size_t outstanding() const { return outstanding_.size(); }
  // Approximate memory.
  size_t bytes() const;

 private:
  static constexpr size_t kUnknownRoom = std::numeric_limits<size_t>::max();

  struct State {
    uint32_t waiting = 0;  // questions for its sake that wait for a label
    bool asked = false;
    bool refused = false;
  };

  // How many queries the annotator is to have now, in addition to those it has.
  size_t Wanted() const;
  bool MayAsk(const Caption& caption) const;
  double UrgencyOf(const Caption& caption) const;
  // Asks about `first`, or which of two is better, for the sake of `caption`.
  void Ask(const Caption& caption, const Caption& first, const Caption* second, v1::AskRequest* request);
  // A caption that this one was not compared with; nullptr where none is found.
  const Caption* ChoosePartner(const Caption& caption);

  const v1::RewardModelConfig config_;
  const bool compares_;
  const uint32_t labels_wanted_;  // of each caption
  const Knowledge known_;
  Clock& clock_;
  Random random_;
  Candidates candidates_;
  absl::flat_hash_map<uint64_t, State> states_;  // captions that are not in it: as a new State
  absl::flat_hash_set<uint64_t> first_;
  uint64_t captions_asked_ = 0;
  // Subjects of questions that wait for a label, and the caption for whose sake each is asked.
  absl::flat_hash_map<OrderedPair, uint64_t> outstanding_;
  bool connected_ = false;
  uint64_t connection_ = 0;
  // What the annotator would accept, as far as known, and when to try although there is no room.
  size_t room_ = 0;
  absl::Time try_again_at_ = absl::InfinitePast();
};

}  // namespace sibyl::reward_model
