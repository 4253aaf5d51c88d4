#include "reward_model/coordinator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/caption.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {
namespace {

// Counts and steps beyond it are no longer exact as double.
constexpr uint64_t kMostCount = uint64_t{1} << 53;

}  // namespace

Coordinator::Coordinator(const v1::Experiment& experiment, std::unique_ptr<ScoreModel> model, uint64_t incarnation,
                         Clock& clock, Metrics& metrics)
    : config_(experiment.reward_model()),
      compares_(Compares(config_)),
      send_context_(experiment.environment().send_context()),
      incarnation_(incarnation),
      clock_(clock),
      metrics_(metrics),
      model_(std::move(model)),
      captions_({config_.max_captions(), config_.max_caption_bytes()}),
      comparisons_(kMaxComparisons),
      threshold_(config_),
      feed_(captions_, *model_, kHistoryRows),
      asker_(config_, {captions_, tallies_, comparisons_, *model_}, incarnation, clock),
      learner_(config_.goal(), incarnation, model_->kind()),
      checkpoint_(experiment, {captions_, tallies_, comparisons_, asker_, learner_}) {
  MutexLock lock(mutex_);
  feed_.SetThreshold(threshold_.value());
  for (const uint64_t id : threshold_.neutral()) asker_.AskFirst(id);
  if (threshold_.neutral().empty()) return;
  for (const std::string& text : config_.neutral_captions()) SetText(CaptionId(text), text, "");
}

// --- Checkpoints ---

void Coordinator::Restore(const v1::RewardModelPiece& piece) {
  MutexLock lock(mutex_);
  checkpoint_.Restore(piece);
}

absl::Status Coordinator::FinishRestore(const v1::RewardModelHead& head) {
  MutexLock lock(mutex_);
  SIBYL_RETURN_IF_ERROR(checkpoint_.FinishRestore(head));
  for (size_t place = 0; place < captions_.places(); ++place) {
    Caption* caption = captions_.At(place);
    if (caption != nullptr) captions_.SetLabelled(*caption, tallies_.IsLabelled(caption->id));
  }
  ForgetExcess();
  model_->Restart();
  threshold_.Restart();
  for (size_t place = 0; place < captions_.places(); ++place) {
    const Caption* caption = captions_.At(place);
    if (caption == nullptr) continue;
    const Tally tally = tallies_.Of(caption->id);
    if (!compares_) Observe(*caption, tally.answers);
    feed_.MarkChanged(caption->id);
    Offer(*caption);
    asker_.OnLabel(*caption);
  }
  for (const auto& [pair, comparison] : comparisons_.all()) {
    const Caption *first = captions_.Find(pair.first), *second = captions_.Find(pair.second);
    if (comparison.answered && first != nullptr && second != nullptr) {
      model_->ObserveComparison(*first, *second, comparison.first_better);
    }
  }
  return absl::OkStatus();
}

void Coordinator::BeginCheckpoint(bool whole) {
  MutexLock lock(mutex_);
  checkpoint_.Begin(whole);
}

v1::RewardModelPiece Coordinator::NextPiece() {
  MutexLock lock(mutex_);
  return checkpoint_.Next(kPiece);
}

// --- The learner ---

absl::Status Coordinator::ConnectLearner(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output) {
  const LearnerOutput* const to = output.get();
  {
    MutexLock lock(mutex_);
    SIBYL_RETURN_IF_ERROR(learner_.Check(hello));
    metrics_.learner_connections.Increment();
    if (learner_.Connect(hello, std::move(output))) captions_.StartLearnerIncarnation();
    text_requests_.Clear();
    learner_.SendProgress(Progress(), clock_.Now());

    // An update that was cut off amid a snapshot is in no log.
    auto missed = hello.reward_model_incarnation() == incarnation_ ? feed_.Since(hello.last_sequence()) : std::nullopt;
    spdlog::info("learner {:x} of run {} connected: {}", hello.incarnation(), hello.run_id(),
                 missed.has_value() ? absl::StrCat("it missed ", missed->size(), " score updates")
                                    : std::string("it gets a snapshot"));
    learner_.SetCatchingUp(!missed.has_value());
    if (missed.has_value()) {
      for (v1::ScoreUpdate& update : *missed) {
        v1::RewardModelToLearner again;
        *again.mutable_scores() = std::move(update);
        learner_.Send(std::move(again));
      }
      return absl::OkStatus();
    }
  }
  SendSnapshot(to);
  return absl::OkStatus();
}

void Coordinator::SendSnapshot(const LearnerOutput* to) {
  // Scores that have changed go into the snapshot, not into updates before it.
  for (bool up_to_date = false; !up_to_date;) {
    MutexLock lock(mutex_);
    if (!learner_.IsConnected(to)) return;
    up_to_date = !feed_.Next().has_value();
    if (!up_to_date) continue;
    metrics_.score_snapshots.Increment();
    feed_.BeginSnapshot();
  }
  for (bool complete = false; !complete;) {
    MutexLock lock(mutex_);
    if (!learner_.IsConnected(to)) return;
    SendScores(feed_.NextOfSnapshot());
    complete = !feed_.in_snapshot();
    if (complete) learner_.SetCatchingUp(false);
  }
}

absl::Status Coordinator::OnCounts(const LearnerOutput* from, const v1::CaptionCounts& counts) {
  if (counts.count_size() != counts.id_size() || counts.last_step_size() != counts.id_size()) {
    return absl::InvalidArgumentError(absl::StrCat("CaptionCounts has ", counts.id_size(), " ids, ",
                                                   counts.count_size(), " counts and ", counts.last_step_size(),
                                                   " last steps; they must be equally many"));
  }
  for (int i = 0; i < counts.id_size(); ++i) {
    if (counts.count(i) <= kMostCount && counts.last_step(i) <= kMostCount) continue;
    return absl::InvalidArgumentError(absl::StrCat("CaptionCounts says of caption ", absl::Hex(counts.id(i)),
                                                   " a count of ", counts.count(i), " and a last step of ",
                                                   counts.last_step(i), "; neither may be above ", kMostCount));
  }
  for (int begin = 0; begin < counts.id_size(); begin += kPiece) {
    MutexLock lock(mutex_);
    if (!learner_.IsConnected(from)) return absl::OkStatus();
    for (int i = begin; i < std::min<int>(begin + kPiece, counts.id_size()); ++i) {
      if (counts.id(i) == 0) continue;  // the empty caption
      Caption& caption = captions_.FindOrAdd(counts.id(i));
      if (captions_.SetLearnerCount(caption, counts.count(i), counts.last_step(i))) {
        // A learner drops scores of captions that it does not know.
        feed_.Resend(caption.id);
      } else if (model_->IsStale(caption)) {
        feed_.MarkChanged(caption.id);
      }
      if (caption.text().empty()) text_requests_.Want(caption.id);
      Offer(caption);
      ForgetExcess();
    }
  }
  return absl::OkStatus();
}

void Coordinator::OnTexts(const LearnerOutput* from, const v1::CaptionTexts& texts) {
  MutexLock lock(mutex_);
  if (!learner_.IsConnected(from)) return;
  for (const v1::CaptionText& text : texts.texts()) {
    if (captions_.Find(text.id()) == nullptr) continue;  // forgotten meanwhile
    SetText(text.id(), text.text(), text.context());
    ForgetExcess();
  }
}

void Coordinator::DisconnectLearner(const LearnerOutput* from) {
  MutexLock lock(mutex_);
  learner_.Disconnect(from);
}

void Coordinator::Drain() {
  MutexLock lock(mutex_);
  learner_.Drain();
}

// --- Captions ---

void Coordinator::SetText(uint64_t id, const std::string& text, const std::string& context) {
  if (id == 0 || (text.empty() && captions_.Find(id) == nullptr)) return;
  const auto outcome = captions_.SetText(id, text, send_context_ ? context : "");
  switch (outcome) {
    case CaptionBook::TextOutcome::kMismatch:
      metrics_.text_mismatches.Increment();
      spdlog::warn("a text came with id {:x}, which is not its own: `{}`", id, text);
      return;
    case CaptionBook::TextOutcome::kCollision:
      metrics_.caption_collisions.Increment();
      spdlog::warn("two captions have id {:x}: `{}`, which stays, and `{}`", id, captions_.Find(id)->text(), text);
      return;
    case CaptionBook::TextOutcome::kSame:
      return;
    case CaptionBook::TextOutcome::kNew:
      break;
  }
  text_requests_.Got(id);
  feed_.MarkChanged(id);
  Offer(*captions_.Find(id));
}

void Coordinator::Offer(const Caption& caption) {
  if (asker_.Offer(caption)) askable_.NotifyOne();
}

void Coordinator::ForgetExcess() {
  const auto held = [this](const Caption& caption) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return asker_.IsWaiting(caption.id) || asker_.IsAskedFirst(caption.id);
  };
  while (Caption* caption = captions_.Excess(held)) Forget(*caption);
}

void Coordinator::Forget(Caption& caption) {
  const uint64_t id = caption.id;
  text_requests_.Got(id);
  tallies_.Forget(id);
  asker_.Forget(id);
  model_->Forget(id);
  threshold_.Forget(id);
  captions_.Forget(caption);
  feed_.MarkChanged(id);
}

void Coordinator::LookAtAllAgain() {
  for (size_t begin = 0;; begin += kPiece) {
    MutexLock lock(mutex_);
    if (begin >= captions_.places()) return;
    for (size_t place = begin; place < std::min(begin + kPiece, captions_.places()); ++place) {
      Caption* caption = captions_.At(place);
      if (caption == nullptr) continue;
      captions_.SetLabelled(*caption, tallies_.IsLabelled(caption->id));
      feed_.MarkChanged(caption->id);
      Offer(*caption);
    }
  }
}

// --- The annotator ---

v1::LabelsRequest Coordinator::ConnectAnnotator(const v1::DescribeResponse& annotator) {
  bool other_judge = false;
  v1::LabelsRequest request;
  {
    MutexLock lock(mutex_);
    other_judge = tallies_.Follow(annotator) == Tallies::Log::kOtherJudge;
    if (other_judge) {
      comparisons_.Clear();
      asker_.ForgetAll();
      model_->Restart();
      threshold_.Restart();
      feed_.SetThreshold(threshold_.value());
      checkpoint_.VoidLabels();
    }
    asker_.Connect();
    metrics_.annotator_connections.Increment();
    askable_.NotifyAll();
    request = LabelsOf(config_, annotator);
    request.set_from_sequence(tallies_.next_sequence());
  }
  if (other_judge) LookAtAllAgain();
  return request;
}

void Coordinator::DisconnectAnnotator() {
  MutexLock lock(mutex_);
  asker_.Disconnect();
}

void Coordinator::OnLabels(const v1::LabelBatch& batch) {
  MutexLock lock(mutex_);
  for (const v1::Label& label : batch.labels()) {
    if (label.sequence() < tallies_.next_sequence()) continue;
    tallies_.SetNextSequence(label.sequence() + 1);
    const std::vector<std::string> captions = Captions(label.query());
    const bool came_early = captions.size() == 1 && tallies_.SettleEarly(CaptionId(captions[0]), label.sequence());
    if (!came_early) {
      ApplyLabel(label);
    } else if (Caption* caption = captions_.Find(CaptionId(captions[0])); caption != nullptr) {
      captions_.Touch(*caption);  // a checkpoint has the label from now on
    }
  }
  tallies_.SetNextSequence(std::max(tallies_.next_sequence(), batch.next_sequence()));
}

Questions Coordinator::TakeQuestions() {
  MutexLock lock(mutex_);
  return asker_.Take();
}

void Coordinator::OnAnswers(const Questions& questions, const v1::AskResponse& response) {
  if (response.outcomes_size() != questions.request.queries_size()) {
    spdlog::error("the annotator answered {} queries with {} outcomes", questions.request.queries_size(),
                  response.outcomes_size());
    OnAskFailed(questions);
    return;
  }
  MutexLock lock(mutex_);
  const bool current = asker_.IsCurrent(questions);
  bool full = false;
  for (int i = 0; i < response.outcomes_size(); ++i) {
    const v1::AskOutcome& outcome = response.outcomes(i);
    const uint64_t id = questions.request.queries(i).tag();
    const OrderedPair subject = SubjectOf(questions.request.queries(i));
    switch (outcome.kind()) {
      case v1::AskOutcome::KIND_ACCEPTED:
      case v1::AskOutcome::KIND_DUPLICATE:
        (outcome.kind() == v1::AskOutcome::KIND_ACCEPTED ? metrics_.queries_accepted : metrics_.queries_duplicate)
            .Increment();
        for (const uint64_t asked : {subject.first, subject.second}) {
          Caption* caption = captions_.Find(asked);
          if (caption == nullptr) continue;
          asker_.SetAsked(asked);
          captions_.Touch(*caption);
        }
        break;
      case v1::AskOutcome::KIND_KNOWN: {
        metrics_.queries_known.Increment();
        if (Caption* caption = captions_.Find(id); caption != nullptr) {
          asker_.SetAsked(id);
          captions_.Touch(*caption);
        }
        if (current) asker_.Release(subject);
        if (IsAnswered(subject)) break;  // the log was faster
        if (!ApplyLabel(outcome.label()) || !IsAnswered(subject)) {
          spdlog::warn("the annotator's known answer to `{}` is not one to that question",
                       absl::StrJoin(Captions(questions.request.queries(i)), "` and `"));
          if (captions_.Find(id) != nullptr) asker_.Refuse(id);
        }
        break;
      }
      default:  // full
        metrics_.queries_full.Increment();
        full = true;
        if (current) asker_.Release(subject);
        if (const Caption* caption = captions_.Find(id); caption != nullptr) Offer(*caption);
        break;
    }
  }
  if (current) asker_.SetRoom(response.room(), full);
}

void Coordinator::OnAskFailed(const Questions& questions) {
  MutexLock lock(mutex_);
  for (const v1::Query& query : questions.request.queries()) {
    if (asker_.IsCurrent(questions)) asker_.Release(SubjectOf(query));
    if (const Caption* caption = captions_.Find(query.tag()); caption != nullptr) Offer(*caption);
  }
}

void Coordinator::OnRefused(const Questions& questions, const absl::Status& why) {
  MutexLock lock(mutex_);
  for (const v1::Query& query : questions.request.queries()) {
    if (asker_.IsCurrent(questions)) asker_.Release(SubjectOf(query));
    if (captions_.Find(query.tag()) != nullptr) asker_.Refuse(query.tag());
    metrics_.queries_refused.Increment();
    spdlog::warn("the annotator refuses to be asked about `{}`: {}", absl::StrJoin(Captions(query), "` and `"),
                 why.message());
  }
}

void Coordinator::WaitUntilAskable(absl::Duration limit) {
  const absl::Time until = clock_.Now() + limit;
  MutexLock lock(mutex_);
  while (!asker_.HasQuestions()) {
    const absl::Duration left = until - clock_.Now();
    if (left <= absl::ZeroDuration()) return;
    clock_.WaitFor(askable_, mutex_, left);
  }
}

// --- Labels ---

bool Coordinator::Fits(const v1::Label& label) const {
  return reward_model::Fits(config_, label) && tallies_.IsOfThisJudge(label);
}

bool Coordinator::IsAnswered(OrderedPair subject) const {
  return compares_ ? comparisons_.Find(subject) != nullptr : tallies_.IsLabelled(subject.first);
}

bool Coordinator::ApplyLabel(const v1::Label& label) {
  if (!Fits(label)) {
    metrics_.labels_ignored.Increment();
    return false;
  }
  std::vector<Caption*> captions;
  for (const std::string& text : Captions(label.query())) {
    const uint64_t id = CaptionId(text);
    SetText(id, text, compares_ ? "" : ContextOf(label.query()));
    captions.push_back(&captions_.FindOrAdd(id));
    if (captions.back()->text() != text) return false;  // a collision, counted
  }
  if (compares_) {
    if (captions[0] == captions[1]) return false;
    ApplyComparison(*captions[0], *captions[1], label);
  } else {
    ApplyClassification(*captions[0], label);
  }
  switch (label.outcome()) {
    case v1::OUTCOME_ANSWERED:
      metrics_.labels_answered.Increment();
      break;
    case v1::OUTCOME_ABSTAINED:
      metrics_.labels_abstained.Increment();
      break;
    case v1::OUTCOME_UNPARSABLE:
      metrics_.labels_unparsable.Increment();
      break;
    default:
      metrics_.labels_failed.Increment();
      break;
  }
  asker_.AddRoom();
  askable_.NotifyOne();
  ForgetExcess();
  return true;
}

void Coordinator::ApplyClassification(Caption& caption, const v1::Label& label) {
  Vote vote;
  vote.answered = label.outcome() == v1::OUTCOME_ANSWERED;
  if (vote.answered) vote.good = Goodness(config_, label);
  if (label.sequence() < tallies_.next_sequence()) {
    tallies_.Add(caption.id, vote);
  } else {
    tallies_.AddEarly(caption.id, label.sequence(), vote);
  }
  asker_.Release({caption.id, 0});
  OnTally(caption);
  Observe(caption, vote.answered ? 1 : 0);
}

void Coordinator::Observe(const Caption& caption, uint32_t new_answers) {
  const Tally tally = tallies_.Of(caption.id);
  model_->Observe(caption, tally, new_answers);
  threshold_.Observe(caption.id, tally);
  feed_.SetThreshold(threshold_.value());
}

void Coordinator::ApplyComparison(Caption& first, Caption& second, const v1::Label& label) {
  const OrderedPair pair = {first.id, second.id};
  Comparison comparison;
  comparison.answered = label.outcome() == v1::OUTCOME_ANSWERED;
  if (comparison.answered) comparison.first_better = Goodness(config_, label);
  // A query that failed may be answered by a later attempt.
  const Comparison* known = comparisons_.Find(pair);
  if (known == nullptr || (comparison.answered && !known->answered)) {
    comparisons_.Add(pair, comparison);
    tallies_.Add(first.id, {comparison.answered, comparison.first_better});
    tallies_.Add(second.id, {comparison.answered, comparison.answered ? 1 - comparison.first_better : 0});
    if (comparison.answered) model_->ObserveComparison(first, second, comparison.first_better);
  }
  asker_.Release(pair);
  OnTally(first);
  OnTally(second);
}

void Coordinator::OnTally(Caption& caption) {
  // Also where this process was killed before it could note that it had asked.
  asker_.SetAsked(caption.id);
  captions_.SetLabelled(caption, true);
  captions_.Touch(caption);
  asker_.OnLabel(caption);
  feed_.MarkChanged(caption.id);
}

// --- What goes to the learner ---

void Coordinator::SendScores(v1::ScoreUpdate update) {
  metrics_.score_updates.Increment();
  metrics_.score_rows.Increment(update.id_size() + update.removed_size());
  v1::RewardModelToLearner message;
  *message.mutable_scores() = std::move(update);
  learner_.Send(std::move(message));
}

v1::RewardModelProgress Coordinator::Progress() const {
  v1::RewardModelProgress progress;
  progress.set_captions_known(captions_.size());
  progress.set_captions_asked(asker_.captions_asked());
  progress.set_captions_labelled(tallies_.captions_labelled());
  progress.set_candidates(asker_.candidates());
  // Of a comparison both captions count one.
  progress.set_labels_without_answer(tallies_.labels_without_answer() / (compares_ ? 2 : 1));
  progress.set_annotator_connected(asker_.connected());
  progress.set_judge(tallies_.judge());
  progress.set_prompt(tallies_.prompt());
  return progress;
}

void Coordinator::Tick() {
  const absl::Time now = clock_.Now();
  // Each step holds the lock for one piece.
  for (size_t begin = 0, places = 1; begin < places; begin += kPiece) {
    MutexLock lock(mutex_);
    if (begin == 0 && !model_->WantsCaptions()) break;
    places = captions_.places();
    std::vector<const Caption*> piece;
    for (size_t place = begin; place < std::min(begin + kPiece, places); ++place) {
      const Caption* caption = captions_.At(place);
      if (caption != nullptr && caption->count > 0 && !caption->text().empty()) piece.push_back(caption);
    }
    model_->OfferCaptions(piece, /*last=*/begin + kPiece >= places);
  }
  for (bool more = true; more;) {
    MutexLock lock(mutex_);
    const std::vector<uint64_t> changed = model_->TakeChanged(kPiece);
    for (const uint64_t id : changed) {
      feed_.MarkChanged(id);
      const Caption* caption = captions_.Find(id);
      if (caption == nullptr) {
        model_->Forget(id);  // it was forgotten while it was being scored
      } else if (config_.training().ask_unsure()) {
        Offer(*caption);
      }
    }
    more = changed.size() == kPiece;
  }
  for (bool more = true; more;) {
    MutexLock lock(mutex_);
    if (!learner_.takes_updates()) break;
    std::optional<v1::ScoreUpdate> update = feed_.Next();
    more = update.has_value();
    if (more) SendScores(*std::move(update));
  }

  MutexLock lock(mutex_);
  if (learner_.connected()) {
    const std::vector<uint64_t> ids = text_requests_.Next(now);
    if (!ids.empty()) {
      metrics_.texts_requested.Increment(static_cast<double>(ids.size()));
      v1::RewardModelToLearner message;
      message.mutable_text_request()->mutable_ids()->Add(ids.begin(), ids.end());
      learner_.Send(std::move(message));
    }
    learner_.SendProgress(Progress(), now);
  }
  if (!asker_.HasRoom()) askable_.NotifyOne();  // the time to try again may have come
  RefreshMetrics();
}

void Coordinator::RefreshMetrics() {
  // Counters follow the parts' own.
  const auto raise = [](prometheus::Counter& counter, uint64_t to) {
    counter.Increment(static_cast<double>(to) - counter.Value());
  };
  metrics_.captions.Set(static_cast<double>(captions_.size()));
  metrics_.caption_text_bytes.Set(static_cast<double>(captions_.text_bytes()));
  raise(metrics_.captions_forgotten, captions_.forgotten());
  metrics_.captions_asked.Set(static_cast<double>(asker_.captions_asked()));
  metrics_.captions_labelled.Set(static_cast<double>(tallies_.captions_labelled()));
  metrics_.table_bytes.Set(static_cast<double>(captions_.bytes() + tallies_.bytes() + comparisons_.bytes() +
                                               asker_.bytes() + feed_.bytes()));
  metrics_.candidates.Set(static_cast<double>(asker_.candidates()));
  raise(metrics_.candidates_dropped, asker_.candidates_dropped());
  metrics_.queries_outstanding.Set(static_cast<double>(asker_.outstanding()));
  metrics_.comparisons.Set(static_cast<double>(comparisons_.size()));
  raise(metrics_.comparisons_forgotten, comparisons_.forgotten());
  metrics_.pairs_both_orders.Set(static_cast<double>(comparisons_.both_orders()));
  metrics_.pairs_flipped.Set(static_cast<double>(comparisons_.flips()));
  metrics_.score_log_rows.Set(static_cast<double>(feed_.log_rows()));
  metrics_.label_log_next_sequence.Set(static_cast<double>(tallies_.next_sequence()));
  metrics_.annotator_connected.Set(asker_.connected());
  metrics_.learner_connected.Set(learner_.connected());
  metrics_.texts_missing.Set(static_cast<double>(text_requests_.missing()));
}

}  // namespace sibyl::reward_model
