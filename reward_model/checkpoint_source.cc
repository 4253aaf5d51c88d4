#include "reward_model/checkpoint_source.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/log.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {
namespace {

using Labels = google::protobuf::RepeatedPtrField<std::string>;

std::string Quoted(const Labels& labels) { return absl::StrCat("[", absl::StrJoin(labels, ", "), "]"); }

}  // namespace

CheckpointSource::CheckpointSource(const v1::Experiment& experiment, Parts parts)
    : goal_(experiment.reward_model().goal()),
      send_context_(experiment.environment().send_context()),
      label_set_(LabelSet(experiment.reward_model())),
      parts_(parts) {}

void CheckpointSource::Restore(const v1::RewardModelPiece& piece) {
  CaptionBook& captions = parts_.captions;
  if (piece.labels_void()) {
    parts_.tallies.Clear();
    parts_.comparisons.Clear();
    parts_.asker.ForgetAll();
  }
  for (const uint64_t id : piece.forgotten()) {
    Caption* caption = captions.Find(id);
    if (caption == nullptr) continue;
    parts_.tallies.Forget(id);
    parts_.asker.Forget(id);
    captions.Forget(*caption);
  }
  for (const v1::RewardCaption& from : piece.captions()) {
    if (from.id() == 0) continue;
    if (!from.text().empty()) {
      const auto outcome = captions.SetText(from.id(), from.text(), send_context_ ? from.context() : "");
      if (outcome == CaptionBook::TextOutcome::kMismatch || outcome == CaptionBook::TextOutcome::kCollision) {
        spdlog::warn("the checkpoint has a text with id {:x}, which is not its own: `{}`", from.id(), from.text());
      }
    }
    Caption& caption = captions.FindOrAdd(from.id());
    captions.RestoreCounts(caption, from.count(), from.learner_count(), std::max<uint32_t>(1, from.learner()),
                           from.last_step());
    if (from.asked()) parts_.asker.SetAsked(from.id());
    parts_.tallies.Restore(from.id(), {from.answers(), from.good_sum(), from.unanswered()},
                           std::max<uint32_t>(1, from.label_log()));
  }
  for (const v1::RewardComparison& from : piece.comparisons()) {
    parts_.comparisons.Add({from.first(), from.second()}, {from.answered(), from.first_better()});
  }
}

absl::Status CheckpointSource::FinishRestore(const v1::RewardModelHead& head) {
  if (head.goal() != goal_) {
    return absl::FailedPreconditionError(absl::StrCat("reward_model.goal is `", goal_, "`, the checkpoint's is `",
                                                      head.goal(), "`; use another run folder for another goal"));
  }
  if (!std::equal(head.label_set().begin(), head.label_set().end(), label_set_.begin(), label_set_.end())) {
    return absl::FailedPreconditionError(absl::StrCat("reward_model.label_set is ", Quoted(label_set_),
                                                      ", the checkpoint's is ", Quoted(head.label_set()),
                                                      "; use another run folder for another label set"));
  }
  parts_.learner.Restore(head.run_id(), head.learner_incarnation());
  parts_.captions.RestoreLearner(std::max<uint32_t>(1, head.learner()));
  parts_.tallies.RestoreLog(head.judge(), head.prompt(), head.log_id(), head.next_sequence(),
                            std::max<uint32_t>(1, head.label_log()));
  parts_.captions.OrderByLastStep();
  return absl::OkStatus();
}

void CheckpointSource::Begin(bool whole) {
  if (!whole) return;
  parts_.captions.BeginFile();
  parts_.comparisons.BeginFile();
  labels_void_ = false;
}

v1::RewardModelPiece CheckpointSource::Next(size_t rows) {
  constexpr size_t kTextBytesAPiece = 4 << 20;
  v1::RewardModelPiece piece;
  piece.set_labels_void(std::exchange(labels_void_, false));
  const std::vector<uint64_t> forgotten = parts_.captions.TakeForgotten(rows);
  piece.mutable_forgotten()->Add(forgotten.begin(), forgotten.end());
  size_t text_bytes = 0;
  const auto is_full = [&] {
    return static_cast<size_t>(piece.forgotten_size() + piece.captions_size() + piece.comparisons_size()) >= rows ||
           text_bytes >= kTextBytesAPiece;
  };
  // A comparison follows the captions that it is about.
  bool captions_saved = false;
  while (!is_full() && !captions_saved) {
    bool with_text = false;
    const Caption* caption = parts_.captions.TakeUnsaved(&with_text);
    captions_saved = caption == nullptr;
    if (captions_saved) break;
    SaveCaption(*caption, with_text, piece.add_captions());
    if (with_text) text_bytes += caption->text().size() + caption->context.size();
  }
  while (!is_full()) {
    const Comparisons::Entry* entry = parts_.comparisons.TakeUnsaved();
    if (entry == nullptr) {
      *piece.mutable_head() = Head();
      break;
    }
    v1::RewardComparison& to = *piece.add_comparisons();
    to.set_first(entry->pair.first);
    to.set_second(entry->pair.second);
    to.set_answered(entry->comparison.answered);
    to.set_first_better(entry->comparison.first_better);
  }
  return piece;
}

v1::RewardModelHead CheckpointSource::Head() const {
  v1::RewardModelHead head;
  head.set_format_version(kCheckpointVersion);
  head.set_run_id(parts_.learner.run_id());
  head.set_goal(goal_);
  *head.mutable_label_set() = label_set_;
  head.set_judge(parts_.tallies.judge());
  head.set_prompt(parts_.tallies.prompt());
  head.set_log_id(parts_.tallies.log_id());
  head.set_next_sequence(parts_.tallies.next_sequence());
  head.set_label_log(parts_.tallies.log());
  head.set_learner_incarnation(parts_.learner.learner_incarnation());
  head.set_learner(parts_.captions.learner());
  return head;
}

void CheckpointSource::SaveCaption(const Caption& caption, bool with_text, v1::RewardCaption* to) const {
  const Tally tally = parts_.tallies.Settled(caption.id);
  to->set_id(caption.id);
  if (with_text) {
    to->set_text(caption.text());
    to->set_context(caption.context);
  }
  to->set_count(caption.count);
  to->set_last_step(caption.last_step);
  to->set_learner_count(parts_.captions.ToldCount(caption));
  to->set_learner(parts_.captions.LearnerOf(caption));
  to->set_asked(parts_.asker.IsAsked(caption.id));
  to->set_answers(tally.answers);
  to->set_good_sum(tally.good_sum);
  to->set_unanswered(tally.unanswered);
  if (tally.labels() > 0) to->set_label_log(parts_.tallies.LogOf(caption.id));
}

}  // namespace sibyl::reward_model
