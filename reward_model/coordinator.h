#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/runtime/clock.h"
#include "common/mutex.h"
#include "common/random.h"
#include "reward_model/asking/candidates.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/tally/comparisons.h"
#include "reward_model/learner_output.h"
#include "reward_model/metrics.h"
#include "reward_model/scoring/score_log.h"
#include "reward_model/scoring/score_model.h"
#include "reward_model/captions/text_requests.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/reward.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::reward_model {

// Scores and removals in one ScoreUpdate, at most.
inline constexpr int kRowsPerUpdate = 16384;
// Rows of past updates that are kept for learners that come back.
inline constexpr size_t kHistoryRows = 262'144;

// Queries on their way to the annotator.
struct Questions {
  // Which connection to the annotator they were made for.
  uint64_t connection = 0;
  v1::AskRequest request;
};

// The stage without its wires: the captions of a run, what to ask about them, the labels, and the scores for the
// learner.
//
// Threads: any. One lock guards everything; nothing waits while holding it. Messages for the learner leave in Tick (and
// in ConnectLearner), so that labels which come together share an update.
class Coordinator {
 public:
  // `experiment` is complete (LoadExperiment). `incarnation`: a number that no other process of this run has, not 0.
  Coordinator(const v1::Experiment& experiment, std::unique_ptr<ScoreModel> model, uint64_t incarnation, Clock& clock,
              Metrics& metrics);

  // --- Checkpoints ---

  // Goes on from a checkpoint; before anything else. FailedPrecondition names the field where it is of another goal or
  // label set.
  absl::Status Restore(const v1::RewardModelState& state);
  // A consistent copy.
  v1::RewardModelState MakeCheckpoint();

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

  // Sends what has gathered for the learner, and refreshes the metrics. Call it some 20 times a second.
  void Tick();

  RewardModelMetrics& metrics() { return metrics_; }
  // For Save and Load.
  ScoreModel& score_model() { return *model_; }

 private:
  size_t Askable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OfferIfAskable(const Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Asks about `first`, or which of two is better, for the sake of `caption`.
  void AddQuestion(Caption& caption, const Caption& first, const Caption* second, v1::AskRequest* request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Caption* ChoosePartner(const Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(OrderedPair asked) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsAnswered(OrderedPair asked) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetAsked(Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetText(uint64_t id, const std::string& text, const std::string& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsOurs(const v1::Label& label) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ApplyLabel(const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ApplyClassification(Caption& caption, const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ApplyComparison(Caption& first, Caption& second, const v1::Label& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddToTally(Caption& caption, bool answered, double good) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetLabels() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearTally(Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkDirty(Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::ScoreUpdate NewUpdate() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<v1::ScoreUpdate> Rescore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendSnapshot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendScores(v1::ScoreUpdate update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendToLearner(v1::RewardModelToLearner message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendProgressIfChanged() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::RewardModelConfig config_;
  const bool compares_;
  const bool frozen_;  // asks nothing
  const google::protobuf::RepeatedPtrField<std::string> label_set_;
  const uint32_t labels_wanted_;  // of each caption
  const bool send_context_;
  const uint64_t incarnation_;
  Clock& clock_;
  RewardModelMetrics metrics_;
  const std::unique_ptr<ScoreModel> model_;  // called under mutex_, Save and Load apart

  Mutex mutex_;
  CondVar askable_;
  CaptionBook book_ ABSL_GUARDED_BY(mutex_);
  // For rankings: what is known of pairs, and the captions that can be in one.
  Comparisons comparisons_ ABSL_GUARDED_BY(mutex_);
  std::vector<const Caption*> partners_ ABSL_GUARDED_BY(mutex_);
  Random random_ ABSL_GUARDED_BY(mutex_);
  Candidates candidates_ ABSL_GUARDED_BY(mutex_);
  TextRequests text_requests_ ABSL_GUARDED_BY(mutex_);
  ScoreLog score_log_ ABSL_GUARDED_BY(mutex_);
  std::string run_id_ ABSL_GUARDED_BY(mutex_);
  uint64_t captions_asked_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t captions_labelled_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t labels_without_answer_ ABSL_GUARDED_BY(mutex_) = 0;

  // The learner.
  std::shared_ptr<LearnerOutput> learner_ ABSL_GUARDED_BY(mutex_);
  uint64_t learner_incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Caption*> dirty_ ABSL_GUARDED_BY(mutex_);
  std::string sent_transform_ ABSL_GUARDED_BY(mutex_);
  std::string sent_progress_ ABSL_GUARDED_BY(mutex_);
  absl::Time progress_sent_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();

  // The annotator.
  bool annotator_connected_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t connection_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::DescribeResponse labels_of_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  // Queries that the annotator has, or will have in a moment, and the caption for whose sake each is asked. Of a
  // classification the key is (caption, 0).
  absl::flat_hash_map<OrderedPair, uint64_t> outstanding_ ABSL_GUARDED_BY(mutex_);
  // What the annotator would accept, as far as known, and when to try it again although there is no room.
  size_t room_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time try_again_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  // Classifications that came as "known" before the log had reached them, by sequence: in the tallies, not in a
  // checkpoint, and passed over when the log gets there. (A comparison counts once, however often it comes.)
  struct EarlyLabel {
    uint64_t id;
    bool answered;
    double good;
  };
  absl::flat_hash_map<uint64_t, EarlyLabel> early_ ABSL_GUARDED_BY(mutex_);
  uint64_t dropped_shown_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sibyl::reward_model
