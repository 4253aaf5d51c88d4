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

// The reward model without its connections. It passes what comes from the learner and the annotator to the parts
// (captions, asking, tally, scoring), and what the parts decide to the learner and the annotator.
//
// Any thread. One lock guards all parts. Nothing waits while it holds the lock. A walk over all captions takes the lock
// for kPiece captions at a time. Messages for the learner leave in Tick and in ConnectLearner, so that labels which
// come together share an update.
class Coordinator {
 public:
  // `experiment`: complete (LoadExperiment). `incarnation`: not 0, and no other process of this run has it.
  Coordinator(const v1::Experiment& experiment, std::unique_ptr<ScoreModel> model, uint64_t incarnation, Clock& clock,
              Metrics& metrics);

  // --- Checkpoints ---

  // Goes on from a checkpoint. Call these before anything else: Restore with each piece in their order, then
  // FinishRestore with the last head. FailedPrecondition: the checkpoint is of another goal or label set; the message
  // names the field.
  void Restore(const v1::RewardModelPiece& piece);
  absl::Status FinishRestore(const v1::RewardModelHead& head);

  // Take a checkpoint on one thread: BeginCheckpoint, then NextPiece until a piece has a head. `whole`: the pieces hold
  // everything, for a new file; else they hold what has changed since the last checkpoint.
  // Labels, the place in the log and the captions that the labels are about are of one moment, when the last piece was
  // taken. Counts of captions in earlier pieces may be older.
  void BeginCheckpoint(bool whole);
  v1::RewardModelPiece NextPiece();

  // --- The learner (reward.proto) ---

  // Connects a learner, and sends it the hello and the scores that it lacks. A learner that was connected is
  // disconnected. FailedPrecondition: protocol version, run or goal differ. Unavailable: this process is stopping.
  absl::Status ConnectLearner(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output);
  // Take a learner's messages. Those of a learner that is no longer connected are ignored. InvalidArgument: the message
  // breaks the contract.
  absl::Status OnCounts(const LearnerOutput* from, const v1::CaptionCounts& counts);
  void OnTexts(const LearnerOutput* from, const v1::CaptionTexts& texts);
  void DisconnectLearner(const LearnerOutput* from);
  // Disconnects the learner and refuses others.
  void Drain();

  // --- The annotator (annotator.proto) ---

  // The annotator can be reached. Returns what to follow of its log. Every query without a label becomes a candidate
  // again: the annotator answers known or duplicate, or has lost the query and asks anew.
  v1::LabelsRequest ConnectAnnotator(const v1::DescribeResponse& annotator);
  void DisconnectAnnotator();
  void OnLabels(const v1::LabelBatch& batch);

  // Takes the most urgent candidates, as many as the annotator is to have now, perhaps none. Pass each result to one of
  // the three calls below.
  Questions TakeQuestions();
  void OnAnswers(const Questions& questions, const v1::AskResponse& response);
  // Nobody knows whether the questions arrived. They become candidates again.
  void OnAskFailed(const Questions& questions);
  // The annotator will never accept the questions.
  void OnRefused(const Questions& questions, const absl::Status& why);
  // Waits until TakeQuestions would give something, at most for `limit`.
  void WaitUntilAskable(absl::Duration limit);

  // --- Upkeep ---

  // Sends the learner what has gathered, and updates the metrics. Call it from one thread, some 20 times a second.
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
