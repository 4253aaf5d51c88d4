#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "reward_model/asking/asker.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/captions/text_requests.h"
#include "reward_model/checkpoint_source.h"
#include "reward_model/learner_output.h"
#include "reward_model/learner_session.h"
#include "reward_model/metrics.h"
#include "reward_model/scoring/score_feed.h"
#include "reward_model/scoring/score_model.h"
#include "reward_model/scoring/threshold.h"
#include "reward_model/tally/comparisons.h"
#include "reward_model/tally/tallies.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/reward.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::reward_model {

// Rows of past score updates that are kept for learners that come back.
inline constexpr size_t kHistoryRows = 262'144;
// Comparisons that are kept; the oldest is forgotten first.
inline constexpr size_t kMaxComparisons = 1'000'000;

// The stage without its wires: passes what comes from the learner and the annotator to the parts (captions, asking,
// tally, scoring), and what they make of it to the learner and the annotator.
//
// Threads: any. One lock guards all parts. Nothing waits while holding it, and no walk over all captions holds it:
// walks go in pieces of kPiece captions, and the lock is free between two pieces. Messages for the learner leave in
// Tick (and in ConnectLearner), so that labels which come together share an update.
class Coordinator {
 public:
  // `experiment` is complete (LoadExperiment). `incarnation`: a number that no other process of this run has, not 0.
  Coordinator(const v1::Experiment& experiment, std::unique_ptr<ScoreModel> model, uint64_t incarnation, Clock& clock,
              Metrics& metrics);

  // --- Checkpoints ---

  // Goes on from a checkpoint; before anything else. Restore takes its pieces in their order, FinishRestore the last
  // head. FailedPrecondition names the field where the checkpoint is of another goal or label set.
  void Restore(const v1::RewardModelPiece& piece);
  absl::Status FinishRestore(const v1::RewardModelHead& head);

  // A checkpoint is taken in pieces, on one thread. BeginCheckpoint with `whole`: everything goes into a new file; else
  // what has changed since the last checkpoint is to be appended. Then NextPiece until a piece has a head.
  // Labels, the place in the log and the captions that they are about are as they were at one moment, when the last
  // piece was taken; counts of captions in earlier pieces may be older. It ends once what has changed in the meantime
  // fits into a piece.
  void BeginCheckpoint(bool whole);
  v1::RewardModelPiece NextPiece();

  // --- The learner (reward.proto) ---

  // A learner has come; one that was connected before is disconnected. Sends the hello and the scores that it lacks.
  // FailedPrecondition: protocol version, run or goal differ. Unavailable: draining.
  absl::Status ConnectLearner(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output);
  // Messages from a learner that is not the connected one any more are ignored. InvalidArgument: they break the
  // contract.
  absl::Status OnCounts(const LearnerOutput* from, const v1::CaptionCounts& counts);
  void OnTexts(const LearnerOutput* from, const v1::CaptionTexts& texts);
  void DisconnectLearner(const LearnerOutput* from);
  // Disconnects the learner and refuses others.
  void Drain();

  // --- The annotator (annotator.proto) ---

  // The annotator can be reached. What to follow from here. Everything that was asked and not answered becomes a
  // candidate again: the annotator answers known or duplicate, or has lost it and asks anew.
  v1::LabelsRequest ConnectAnnotator(const v1::DescribeResponse& annotator);
  void DisconnectAnnotator();
  void OnLabels(const v1::LabelBatch& batch);

  // Takes the most urgent candidates, as many as the annotator is to have now; perhaps none. Each Questions must come
  // back by one of the three below.
  Questions TakeQuestions();
  void OnAnswers(const Questions& questions, const v1::AskResponse& response);
  // Nobody knows whether they arrived: they are candidates again.
  void OnAskFailed(const Questions& questions);
  // The annotator will never accept them.
  void OnRefused(const Questions& questions, const absl::Status& why);
  // Waits, at most `limit`, until TakeQuestions would give something.
  void WaitUntilAskable(absl::Duration limit);

  // --- Upkeep ---

  // Sends what has gathered for the learner, and refreshes the metrics. Call it some 20 times a second, from one
  // thread.
  void Tick();

  RewardModelMetrics& metrics() { return metrics_; }
  // For Save and Load.
  ScoreModel& score_model() { return *model_; }

 private:
  // Captions that are looked at under one hold of the lock.
  static constexpr size_t kPiece = 4096;

  void SetText(uint64_t id, const std::string& text, const std::string& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Offer(const Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets captions until the book is within its bounds.
  void ForgetExcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The judge has changed: offers all captions, and has their scores looked at again. In pieces.
  void LookAtAllAgain() ABSL_LOCKS_EXCLUDED(mutex_);
  bool Fits(const v1::Label& label) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsAnswered(OrderedPair subject) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts the label for its captions; false where it is not one of this run's.
  bool ApplyLabel(const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ApplyClassification(Caption& caption, const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ApplyComparison(Caption& first, Caption& second, const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A caption's answers have changed: `new_answers` of them were not observed before.
  void Observe(const Caption& caption, uint32_t new_answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The caption's tally has changed.
  void OnTally(Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Gives a learner that has just come the scores that it lacks, in pieces, as long as it is the one.
  void SendSnapshot(const LearnerOutput* to) ABSL_LOCKS_EXCLUDED(mutex_);
  void SendScores(v1::ScoreUpdate update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::RewardModelProgress Progress() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshMetrics() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::RewardModelConfig config_;
  const bool compares_;
  const bool send_context_;
  const uint64_t incarnation_;
  Clock& clock_;
  RewardModelMetrics metrics_;
  const std::unique_ptr<ScoreModel> model_;  // called under mutex_, Save and Load apart

  Mutex mutex_;
  CondVar askable_;

  // The parts, in the order in which they know of one another.
  CaptionBook captions_ ABSL_GUARDED_BY(mutex_);
  TextRequests text_requests_ ABSL_GUARDED_BY(mutex_);
  Tallies tallies_ ABSL_GUARDED_BY(mutex_);
  Comparisons comparisons_ ABSL_GUARDED_BY(mutex_);  // of a ranking
  Threshold threshold_ ABSL_GUARDED_BY(mutex_);
  ScoreFeed feed_ ABSL_GUARDED_BY(mutex_);
  Asker asker_ ABSL_GUARDED_BY(mutex_);
  LearnerSession learner_ ABSL_GUARDED_BY(mutex_);
  CheckpointSource checkpoint_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::reward_model
