#include "reward_model/coordinator.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/caption.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/status_macros.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {
namespace {

constexpr uint32_t kFormatVersion = 1;
constexpr size_t kUnknownRoom = std::numeric_limits<size_t>::max();
constexpr absl::Duration kTryAgainWhenFull = absl::Seconds(1);
constexpr absl::Duration kProgressPeriod = absl::Seconds(1);
// Captions among which a partner for a comparison is chosen, and tries to find one that is new to the caption.
constexpr int kPartnersLookedAt = 16;
// A caption that the model has no idea of is as urgent as one seen sixteen times as often that it is sure of.
constexpr double kSureOf = 1.0 / 16;

std::string Quoted(const google::protobuf::RepeatedPtrField<std::string>& labels) {
  return absl::StrCat("[", absl::StrJoin(labels, ", "), "]");
}

bool Equal(const google::protobuf::RepeatedPtrField<std::string>& a,
           const google::protobuf::RepeatedPtrField<std::string>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

OrderedPair KeyOf(const v1::Query& query) {
  const std::vector<std::string> captions = Captions(query);
  return {CaptionId(captions[0]), captions.size() > 1 ? CaptionId(captions[1]) : 0};
}

// What was in view when each was first seen.
std::string Context(const Caption& first, const Caption* second) {
  if (second == nullptr || (first.context.empty() && second->context.empty())) return first.context;
  const auto shown = [](const Caption& caption) {
    return caption.context.empty() ? std::string("unknown") : caption.context;
  };
  return absl::StrCat("first: ", shown(first), "; second: ", shown(*second));
}

std::string JudgeName(const v1::DescribeResponse& annotator) {
  return annotator.prompt().empty() ? annotator.judge()
                                    : absl::StrCat(annotator.judge(), " with prompt ", annotator.prompt());
}

}  // namespace

Coordinator::Coordinator(const v1::Experiment& experiment, std::unique_ptr<ScoreModel> model, uint64_t incarnation,
                         Clock& clock, Metrics& metrics)
    : config_(experiment.reward_model()),
      compares_(Compares(config_)),
      frozen_(!config_.weights_file().empty()),
      label_set_(LabelSet(config_)),
      labels_wanted_(compares_ ? config_.pairs().comparisons() : 1),
      send_context_(experiment.environment().send_context()),
      incarnation_(incarnation),
      clock_(clock),
      metrics_(metrics),
      model_(std::move(model)),
      random_(incarnation),
      candidates_(config_.max_candidates()),
      score_log_(kHistoryRows) {}

// --- Checkpoints ---

absl::Status Coordinator::Restore(const v1::RewardModelState& state) {
  if (state.format_version() != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the reward model's checkpoint has format ",
                                                      state.format_version(), ", this program reads ", kFormatVersion));
  }
  if (state.goal() != config_.goal()) {
    return absl::FailedPreconditionError(absl::StrCat("reward_model.goal is `", config_.goal(),
                                                      "`, the checkpoint's is `", state.goal(),
                                                      "`; use another run folder for another goal"));
  }
  if (!Equal(state.label_set(), label_set_)) {
    return absl::FailedPreconditionError(absl::StrCat("reward_model.label_set is ", Quoted(label_set_),
                                                      ", the checkpoint's is ", Quoted(state.label_set()),
                                                      "; use another run folder for another label set"));
  }
  MutexLock lock(mutex_);
  run_id_ = state.run_id();
  labels_of_.set_judge(state.judge());
  labels_of_.set_prompt(state.prompt());
  labels_of_.set_log_id(state.log_id());
  learner_incarnation_ = state.learner_incarnation();
  next_sequence_ = std::max<uint64_t>(1, state.next_sequence());
  for (const v1::RewardCaption& from : state.captions()) {
    if (from.id() == 0) continue;
    SetText(from.id(), from.text(), from.context());
    Caption& caption = book_.FindOrAdd(from.id());
    caption.count = from.count();
    caption.learner_count = from.learner_count();
    caption.last_step = from.last_step();
    if (from.asked()) SetAsked(caption);
    caption.answers = from.answers();
    caption.good_sum = from.good_sum();
    caption.unanswered = from.unanswered();
    captions_labelled_ += caption.answers > 0;
    labels_without_answer_ += caption.unanswered;
    MarkDirty(caption);
  }
  for (const v1::RewardComparison& from : state.comparisons()) {
    if (book_.Find(from.first()) == nullptr || book_.Find(from.second()) == nullptr) continue;
    comparisons_.Add({from.first(), from.second()}, {from.answered(), from.first_better()});
  }
  model_->Restart(book_, comparisons_);
  return absl::OkStatus();
}

v1::RewardModelState Coordinator::MakeCheckpoint() {
  v1::RewardModelState state;
  MutexLock lock(mutex_);
  state.set_format_version(kFormatVersion);
  state.set_run_id(run_id_);
  state.set_goal(config_.goal());
  *state.mutable_label_set() = label_set_;
  state.set_next_sequence(next_sequence_);
  state.set_judge(labels_of_.judge());
  state.set_prompt(labels_of_.prompt());
  state.set_log_id(labels_of_.log_id());
  state.set_learner_incarnation(learner_incarnation_);
  absl::flat_hash_map<uint64_t, EarlyLabel> early;  // by caption
  for (const auto& [sequence, label] : early_) early[label.id] = label;
  state.mutable_captions()->Reserve(static_cast<int>(book_.size()));
  for (const Caption& caption : book_.captions()) {
    v1::RewardCaption& to = *state.add_captions();
    to.set_id(caption.id);
    to.set_text(caption.text);
    to.set_context(caption.context);
    to.set_count(caption.count);
    to.set_last_step(caption.last_step);
    to.set_asked(caption.asked);
    to.set_answers(caption.answers);
    to.set_good_sum(caption.good_sum);
    to.set_unanswered(caption.unanswered);
    to.set_learner_count(caption.learner_count);
    if (const auto it = early.find(caption.id); it != early.end()) {
      // The log brings it again.
      if (it->second.answered) {
        to.set_answers(caption.answers - 1);
        to.set_good_sum(caption.answers == 1 ? 0 : caption.good_sum - it->second.good);
      } else {
        to.set_unanswered(caption.unanswered - 1);
      }
    }
  }
  for (const auto& [pair, comparison] : comparisons_.all()) {
    v1::RewardComparison& to = *state.add_comparisons();
    to.set_first(pair.first);
    to.set_second(pair.second);
    to.set_answered(comparison.answered);
    to.set_first_better(comparison.first_better);
  }
  return state;
}

// --- The learner ---

absl::Status Coordinator::ConnectLearner(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output) {
  if (hello.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the learner speaks protocol version ", hello.protocol_version(),
                                                      ", the reward model ", kProtocolVersion,
                                                      "; run the same release of both"));
  }
  if (hello.run_id().empty()) return absl::FailedPreconditionError("the learner's run_id is empty");
  if (hello.goal() != config_.goal()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the learner's goal is `", hello.goal(), "`, the reward model's is `", config_.goal(), "`"));
  }
  MutexLock lock(mutex_);
  if (draining_) return absl::UnavailableError("the reward model is stopping; reconnect");
  if (!run_id_.empty() && hello.run_id() != run_id_) {
    return absl::FailedPreconditionError(absl::StrCat("the learner's run is `", hello.run_id(),
                                                      "`, the reward model's is `", run_id_,
                                                      "`; give each run a reward model of its own"));
  }
  run_id_ = hello.run_id();
  if (learner_ != nullptr) learner_->Disconnect(absl::UnavailableError("the learner has connected anew"));
  learner_ = std::move(output);
  metrics_.learner_connections.Increment();
  if (hello.incarnation() != learner_incarnation_) book_.StartLearnerIncarnation();
  learner_incarnation_ = hello.incarnation();
  text_requests_.Clear();

  v1::RewardModelToLearner message;
  message.mutable_hello()->set_protocol_version(kProtocolVersion);
  message.mutable_hello()->set_incarnation(incarnation_);
  message.mutable_hello()->set_kind(model_->kind());
  SendToLearner(std::move(message));
  sent_progress_.clear();
  SendProgressIfChanged();

  auto missed =
      hello.reward_model_incarnation() == incarnation_ ? score_log_.Since(hello.last_sequence()) : std::nullopt;
  spdlog::info("learner {:x} of run {} connected: {}", hello.incarnation(), hello.run_id(),
               missed.has_value() ? absl::StrCat("it missed ", missed->size(), " score updates")
                                  : std::string("it gets a snapshot"));
  if (!missed.has_value()) {
    SendSnapshot();
  } else {
    for (v1::ScoreUpdate& update : *missed) {
      v1::RewardModelToLearner again;
      *again.mutable_scores() = std::move(update);
      SendToLearner(std::move(again));
    }
  }
  return absl::OkStatus();
}

absl::Status Coordinator::OnCounts(const LearnerOutput* from, const v1::CaptionCounts& counts) {
  if (counts.count_size() != counts.id_size() || counts.last_step_size() != counts.id_size()) {
    return absl::InvalidArgumentError(absl::StrCat("CaptionCounts has ", counts.id_size(), " ids, ",
                                                   counts.count_size(), " counts and ", counts.last_step_size(),
                                                   " last steps; they must be equally many"));
  }
  MutexLock lock(mutex_);
  if (learner_.get() != from) return absl::OkStatus();
  for (int i = 0; i < counts.id_size(); ++i) {
    if (counts.id(i) == 0) continue;  // the empty caption
    Caption& caption = book_.FindOrAdd(counts.id(i));
    if (CaptionBook::SetLearnerCount(caption, counts.count(i), counts.last_step(i))) {
      // A learner drops scores of captions that it does not know.
      caption.resend = true;
      MarkDirty(caption);
    } else if (model_->IsStale(caption)) {
      MarkDirty(caption);
    }
    if (caption.text.empty()) text_requests_.Want(caption.id);
    OfferIfAskable(caption);
  }
  return absl::OkStatus();
}

void Coordinator::OnTexts(const LearnerOutput* from, const v1::CaptionTexts& texts) {
  MutexLock lock(mutex_);
  if (learner_.get() != from) return;
  for (const v1::CaptionText& text : texts.texts()) SetText(text.id(), text.text(), text.context());
}

void Coordinator::DisconnectLearner(const LearnerOutput* from) {
  MutexLock lock(mutex_);
  if (learner_.get() != from) return;
  learner_ = nullptr;
  spdlog::info("the learner is gone; waiting for it");
}

void Coordinator::Drain() {
  MutexLock lock(mutex_);
  draining_ = true;
  if (learner_ != nullptr) learner_->Disconnect(absl::UnavailableError("the reward model is stopping; reconnect"));
  learner_ = nullptr;
}

void Coordinator::SetText(uint64_t id, const std::string& text, const std::string& context) {
  if (id == 0 || (text.empty() && book_.Find(id) == nullptr)) return;
  const auto outcome = book_.SetText(id, text, send_context_ ? context : "");
  switch (outcome) {
    case CaptionBook::TextOutcome::kMismatch:
      metrics_.text_mismatches.Increment();
      spdlog::warn("a text came with id {:x}, which is not its own: `{}`", id, text);
      return;
    case CaptionBook::TextOutcome::kCollision:
      metrics_.caption_collisions.Increment();
      spdlog::warn("two captions have id {:x}: `{}`, which stays, and `{}`", id, book_.Find(id)->text, text);
      return;
    case CaptionBook::TextOutcome::kSame:
      return;
    case CaptionBook::TextOutcome::kNew:
      break;
  }
  Caption& caption = *book_.Find(id);
  text_requests_.Got(id);
  partners_.push_back(&caption);
  MarkDirty(caption);
  OfferIfAskable(caption);
}

// --- The annotator ---

v1::LabelsRequest Coordinator::ConnectAnnotator(const v1::DescribeResponse& annotator) {
  MutexLock lock(mutex_);
  const bool same_judge = annotator.judge() == labels_of_.judge() && annotator.prompt() == labels_of_.prompt();
  if (!same_judge) {
    if (next_sequence_ > 1) {
      spdlog::warn("the judge was {} and is now {}: labels of the former are no longer used",
                   labels_of_.judge().empty() ? "unknown" : JudgeName(labels_of_), JudgeName(annotator));
    }
    ForgetLabels();
  } else if (next_sequence_ > annotator.labels() + 1 ||
             (!labels_of_.log_id().empty() && labels_of_.log_id() != annotator.log_id())) {
    spdlog::warn(
        "the label log {} was read up to {}, but the annotator has {}, which ends at {}: another log, read from the "
        "beginning; labels that it lacks are kept",
        labels_of_.log_id(), next_sequence_ - 1, annotator.log_id(), annotator.labels());
    next_sequence_ = 1;
    early_.clear();
    for (Caption& caption : book_.captions()) caption.superseded = caption.labelled();
  }
  labels_of_.Clear();
  labels_of_.set_judge(annotator.judge());
  labels_of_.set_prompt(annotator.prompt());
  labels_of_.set_log_id(annotator.log_id());
  ++connection_;
  annotator_connected_ = true;
  metrics_.annotator_connections.Increment();
  outstanding_.clear();
  room_ = kUnknownRoom;
  for (Caption& caption : book_.captions()) {
    caption.waiting = 0;
    OfferIfAskable(caption);
  }
  askable_.NotifyAll();

  v1::LabelsRequest request = LabelsOf(config_, annotator);
  request.set_from_sequence(next_sequence_);
  return request;
}

void Coordinator::DisconnectAnnotator() {
  MutexLock lock(mutex_);
  annotator_connected_ = false;
}

void Coordinator::OnLabels(const v1::LabelBatch& batch) {
  MutexLock lock(mutex_);
  for (const v1::Label& label : batch.labels()) {
    if (label.sequence() < next_sequence_) continue;
    next_sequence_ = label.sequence() + 1;
    if (early_.erase(label.sequence()) == 0) ApplyLabel(label);
  }
  const uint64_t next = next_sequence_ = std::max(next_sequence_, batch.next_sequence());
  absl::erase_if(early_, [next](const auto& early) { return early.first < next; });
}

Questions Coordinator::TakeQuestions() {
  MutexLock lock(mutex_);
  Questions questions;
  questions.connection = connection_;
  for (uint64_t id : candidates_.Take(Askable())) {
    Caption& caption = *book_.Find(id);
    if (!compares_) {
      AddQuestion(caption, caption, nullptr, &questions.request);
    } else if (const Caption* partner = ChoosePartner(caption); partner != nullptr) {
      const bool both = config_.pairs().both_orders(), swapped = !both && random_.Below(2) == 1;
      if (!swapped) AddQuestion(caption, caption, partner, &questions.request);
      if (both || swapped) AddQuestion(caption, *partner, &caption, &questions.request);
    }
  }
  return questions;
}

void Coordinator::AddQuestion(Caption& caption, const Caption& first, const Caption* second, v1::AskRequest* request) {
  ++caption.waiting;
  outstanding_[{first.id, second == nullptr ? 0 : second->id}] = caption.id;
  v1::Query& query = *request->add_queries();
  query = MakeQuery(config_, first.text, second == nullptr ? nullptr : &second->text, Context(first, second));
  query.set_tag(caption.id);
  query.set_priority(Urgency(caption.count, caption.last_step));
}

// A caption that it was not compared with; nullptr where none is found, and it is offered again when it is seen again.
const Caption* Coordinator::ChoosePartner(const Caption& caption) {
  std::vector<const Caption*> found;
  const int wanted = config_.pairs().strategy() == v1::PAIR_STRATEGY_RANDOM ? 1 : kPartnersLookedAt;
  for (int i = 0; i < 2 * kPartnersLookedAt && static_cast<int>(found.size()) < wanted; ++i) {
    const Caption* other = partners_[random_.Below(partners_.size())];
    const bool asked = comparisons_.Has(caption.id, other->id) || outstanding_.contains({caption.id, other->id}) ||
                       outstanding_.contains({other->id, caption.id});
    if (other != &caption && other->count >= config_.ask_after() && !other->refused && !asked) found.push_back(other);
  }
  if (found.empty()) return nullptr;
  if (config_.pairs().strategy() == v1::PAIR_STRATEGY_UNCERTAIN) {
    std::vector<double> uncertainty;
    for (const Caption* other : found) uncertainty.push_back(model_->Uncertainty(caption, other));
    return found[std::max_element(uncertainty.begin(), uncertainty.end()) - uncertainty.begin()];
  }
  uint64_t total = 0;
  for (const Caption* other : found) total += other->count;
  uint64_t at = random_.Below(total);
  size_t chosen = 0;
  while (at >= found[chosen]->count) at -= found[chosen++]->count;
  return found[chosen];
}

void Coordinator::OnAnswers(const Questions& questions, const v1::AskResponse& response) {
  if (response.outcomes_size() != questions.request.queries_size()) {
    spdlog::error("the annotator answered {} queries with {} outcomes", questions.request.queries_size(),
                  response.outcomes_size());
    OnAskFailed(questions);
    return;
  }
  MutexLock lock(mutex_);
  const bool current = questions.connection == connection_;
  bool full = false;
  for (int i = 0; i < response.outcomes_size(); ++i) {
    const v1::AskOutcome& outcome = response.outcomes(i);
    Caption& caption = *book_.Find(questions.request.queries(i).tag());
    const OrderedPair key = KeyOf(questions.request.queries(i));
    switch (outcome.kind()) {
      case v1::AskOutcome::KIND_ACCEPTED:
      case v1::AskOutcome::KIND_DUPLICATE:
        (outcome.kind() == v1::AskOutcome::KIND_ACCEPTED ? metrics_.queries_accepted : metrics_.queries_duplicate)
            .Increment();
        for (const uint64_t id : {key.first, key.second}) {
          if (id != 0) SetAsked(*book_.Find(id));
        }
        break;
      case v1::AskOutcome::KIND_KNOWN: {
        metrics_.queries_known.Increment();
        SetAsked(caption);
        if (current) Release(key);
        if (IsAnswered(key)) break;  // the log was faster
        const v1::Label& label = outcome.label();
        if (!ApplyLabel(label) || !IsAnswered(key)) {
          spdlog::warn("the annotator's known answer to `{}` is not one to that question",
                       absl::StrJoin(Captions(questions.request.queries(i)), "` and `"));
          caption.refused = true;
        } else if (!compares_ && label.sequence() >= next_sequence_) {
          early_[label.sequence()] = {caption.id, label.outcome() == v1::OUTCOME_ANSWERED, caption.good_sum};
        }
        break;
      }
      default:  // full
        metrics_.queries_full.Increment();
        full = true;
        if (current) Release(key);
        OfferIfAskable(caption);
        break;
    }
  }
  if (!current) return;
  room_ = full ? 0 : response.room();
  try_again_at_ = room_ == 0 ? clock_.Now() + kTryAgainWhenFull : absl::InfinitePast();
}

void Coordinator::OnAskFailed(const Questions& questions) {
  MutexLock lock(mutex_);
  for (const v1::Query& query : questions.request.queries()) {
    Caption& caption = *book_.Find(query.tag());
    if (questions.connection == connection_) Release(KeyOf(query));
    OfferIfAskable(caption);
  }
}

void Coordinator::OnRefused(const Questions& questions, const absl::Status& why) {
  MutexLock lock(mutex_);
  for (const v1::Query& query : questions.request.queries()) {
    Caption& caption = *book_.Find(query.tag());
    if (questions.connection == connection_) Release(KeyOf(query));
    caption.refused = true;
    candidates_.Remove(caption.id);
    metrics_.queries_refused.Increment();
    spdlog::warn("the annotator refuses to be asked about `{}`: {}", absl::StrJoin(Captions(query), "` and `"),
                 why.message());
  }
}

void Coordinator::WaitUntilAskable(absl::Duration limit) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limit);
  MutexLock lock(mutex_);
  while (Askable() == 0 || candidates_.size() == 0) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero() || !askable_.WaitFor(mutex_, left)) return;
  }
}

// How many queries the annotator is to have now, in addition to those it has.
size_t Coordinator::Askable() const {
  if (!annotator_connected_ || outstanding_.size() >= config_.queue_target()) return 0;
  size_t free = config_.queue_target() - outstanding_.size();
  // A few at a time, not one call for each label that comes.
  if (free * 4 < config_.queue_target()) return 0;
  if (compares_ && config_.pairs().both_orders()) free = (free + 1) / 2;
  if (room_ > 0) return std::min(free, room_);
  return clock_.Now() >= try_again_at_ ? 1 : 0;
}

void Coordinator::OfferIfAskable(const Caption& caption) {
  if (frozen_ || !caption.askable(labels_wanted_, config_.ask_after())) return;
  double urgency = Urgency(caption.count, caption.last_step);
  if (config_.training().ask_unsure() && !compares_) {
    // Of a probability p, p (1 - p) is at most 1/4, and a deviation at most 1/2.
    urgency += std::log2(std::clamp(2 * model_->Uncertainty(caption, nullptr), kSureOf, 1.0));
  }
  candidates_.Offer(caption.id, urgency);
  askable_.NotifyOne();
}

// The annotator has this query no longer.
void Coordinator::Release(OrderedPair asked) {
  const auto it = outstanding_.find(asked);
  if (it == outstanding_.end()) return;
  Caption& caption = *book_.Find(it->second);
  outstanding_.erase(it);
  --caption.waiting;
  if (compares_) OfferIfAskable(caption);
}

bool Coordinator::IsAnswered(OrderedPair asked) {
  return compares_ ? comparisons_.Find(asked) != nullptr : book_.Find(asked.first)->labelled();
}

void Coordinator::SetAsked(Caption& caption) {
  captions_asked_ += !caption.asked;
  caption.asked = true;
}

bool Coordinator::IsOurs(const v1::Label& label) const {
  return Fits(config_, label) && label.judge() == labels_of_.judge() && label.prompt() == labels_of_.prompt();
}

// Counts the label for its captions; false where it is not one of this run's.
bool Coordinator::ApplyLabel(const v1::Label& label) {
  if (!IsOurs(label)) {
    metrics_.labels_ignored.Increment();
    return false;
  }
  std::vector<Caption*> captions;
  for (const std::string& text : Captions(label.query())) {
    const uint64_t id = CaptionId(text);
    SetText(id, text, compares_ ? "" : ContextOf(label.query()));
    captions.push_back(&book_.FindOrAdd(id));
    if (captions.back()->text != text) return false;  // a collision, counted
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
  if (room_ != kUnknownRoom) ++room_;
  askable_.NotifyOne();
  return true;
}

void Coordinator::ApplyClassification(Caption& caption, const v1::Label& label) {
  if (caption.superseded) ClearTally(caption);
  const bool answered = label.outcome() == v1::OUTCOME_ANSWERED;
  AddToTally(caption, answered, answered ? Goodness(config_, label) : 0);
  Release({caption.id, 0});
  candidates_.Remove(caption.id);
  model_->Observe(caption, label);
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
    AddToTally(first, comparison.answered, comparison.first_better);
    AddToTally(second, comparison.answered, 1 - comparison.first_better);
    if (comparison.answered) model_->ObserveComparison(first, second, comparison.first_better);
  }
  Release(pair);
  for (const Caption* caption : {&first, &second}) {
    if (!caption->askable(labels_wanted_, config_.ask_after())) candidates_.Remove(caption->id);
  }
}

void Coordinator::AddToTally(Caption& caption, bool answered, double good) {
  // Also where this process was killed before it could note that it had asked.
  SetAsked(caption);
  if (answered) {
    captions_labelled_ += caption.answers == 0;
    ++caption.answers;
    caption.good_sum += good;
  } else {
    ++caption.unanswered;
    ++labels_without_answer_;
  }
  MarkDirty(caption);
}

void Coordinator::ClearTally(Caption& caption) {
  captions_labelled_ -= caption.answers > 0;
  labels_without_answer_ -= caption.unanswered;
  caption.answers = 0;
  caption.good_sum = 0;
  caption.unanswered = 0;
  caption.superseded = false;
}

void Coordinator::ForgetLabels() {
  for (Caption& caption : book_.captions()) {
    ClearTally(caption);
    caption.asked = false;
    caption.refused = false;
    MarkDirty(caption);
  }
  comparisons_.Clear();
  captions_asked_ = 0;
  early_.clear();
  next_sequence_ = 1;
  model_->Restart(book_, comparisons_);
}

// --- Scores ---

void Coordinator::MarkDirty(Caption& caption) {
  if (caption.dirty) return;
  caption.dirty = true;
  dirty_.push_back(&caption);
}

v1::ScoreUpdate Coordinator::NewUpdate() const {
  v1::ScoreUpdate update;
  update.set_version(model_->version());
  *update.mutable_transform() = model_->transform();
  return update;
}

// Brings `score` and `sent` of the dirty captions up to date; gives the updates that say so.
std::vector<v1::ScoreUpdate> Coordinator::Rescore() {
  for (const uint64_t id : model_->TakeChanged()) {
    Caption& caption = *book_.Find(id);
    MarkDirty(caption);
    if (config_.training().ask_unsure()) OfferIfAskable(caption);
  }
  std::vector<v1::ScoreUpdate> updates;
  std::vector<std::optional<float>> scores;
  const absl::Span<Caption* const> all = dirty_;
  for (size_t begin = 0; begin < all.size(); begin += kRowsPerUpdate) {
    const auto chunk = all.subspan(begin, kRowsPerUpdate);
    scores.assign(chunk.size(), std::nullopt);
    model_->Score(absl::MakeConstSpan(const_cast<const Caption* const*>(chunk.data()), chunk.size()),
                  absl::MakeSpan(scores));
    v1::ScoreUpdate update = NewUpdate();
    for (size_t i = 0; i < chunk.size(); ++i) {
      Caption& caption = *chunk[i];
      // Captions that this run has not seen are nothing to the learner.
      const bool scored = scores[i].has_value() && caption.count > 0;
      if (scored && (!caption.sent || caption.resend || caption.score != *scores[i])) {
        update.add_id(caption.id);
        update.add_score(*scores[i]);
        caption.score = *scores[i];
      } else if (!scored && caption.sent) {
        update.add_removed(caption.id);
      }
      caption.sent = scored;
      caption.resend = false;
      caption.dirty = false;
    }
    if (update.id_size() + update.removed_size() > 0) updates.push_back(std::move(update));
  }
  dirty_.clear();
  if (updates.empty() && !sent_transform_.empty() && model_->transform().SerializeAsString() != sent_transform_) {
    updates.push_back(NewUpdate());
  }
  return updates;
}

void Coordinator::SendSnapshot() {
  Rescore();
  metrics_.score_snapshots.Increment();
  v1::ScoreUpdate update = NewUpdate();
  update.set_reset(true);
  for (const Caption& caption : book_.captions()) {
    if (!caption.sent) continue;
    if (update.id_size() == kRowsPerUpdate) {
      update.set_more(true);
      SendScores(std::move(update));
      update = NewUpdate();
    }
    update.add_id(caption.id);
    update.add_score(caption.score);
  }
  SendScores(std::move(update));
}

void Coordinator::SendScores(v1::ScoreUpdate update) {
  metrics_.score_updates.Increment();
  metrics_.score_rows.Increment(update.id_size() + update.removed_size());
  sent_transform_ = update.transform().SerializeAsString();
  v1::RewardModelToLearner message;
  *message.mutable_scores() = score_log_.Append(std::move(update));
  SendToLearner(std::move(message));
}

// Does nothing where there is no learner.
void Coordinator::SendToLearner(v1::RewardModelToLearner message) {
  if (learner_ == nullptr || learner_->Deliver(std::move(message))) return;
  learner_ = nullptr;
  spdlog::info("the learner is gone; waiting for it");
}

void Coordinator::SendProgressIfChanged() {
  v1::RewardModelToLearner message;
  v1::RewardModelProgress& progress = *message.mutable_progress();
  progress.set_captions_known(book_.size());
  progress.set_captions_asked(captions_asked_);
  progress.set_captions_labelled(captions_labelled_);
  progress.set_candidates(candidates_.size());
  // Of a comparison both captions count one.
  progress.set_labels_without_answer(labels_without_answer_ / (compares_ ? 2 : 1));
  progress.set_annotator_connected(annotator_connected_);
  progress.set_judge(labels_of_.judge());
  progress.set_prompt(labels_of_.prompt());
  std::string bytes = message.SerializeAsString();
  if (bytes == sent_progress_) return;
  sent_progress_ = std::move(bytes);
  progress_sent_at_ = clock_.Now();
  SendToLearner(std::move(message));
}

void Coordinator::Tick() {
  const absl::Time now = clock_.Now();
  MutexLock lock(mutex_);
  model_->Tick(book_);
  if (learner_ != nullptr) {
    for (v1::ScoreUpdate& update : Rescore()) SendScores(std::move(update));
    const std::vector<uint64_t> ids = text_requests_.Next(now);
    if (!ids.empty()) {
      metrics_.texts_requested.Increment(static_cast<double>(ids.size()));
      v1::RewardModelToLearner message;
      message.mutable_text_request()->mutable_ids()->Add(ids.begin(), ids.end());
      SendToLearner(std::move(message));
    }
    if (now - progress_sent_at_ >= kProgressPeriod) SendProgressIfChanged();
  }
  if (room_ == 0) askable_.NotifyOne();  // the time to try again may have come

  metrics_.captions.Set(static_cast<double>(book_.size()));
  metrics_.captions_asked.Set(static_cast<double>(captions_asked_));
  metrics_.captions_labelled.Set(static_cast<double>(captions_labelled_));
  metrics_.table_bytes.Set(static_cast<double>(book_.bytes()));
  metrics_.candidates.Set(static_cast<double>(candidates_.size()));
  metrics_.candidates_dropped.Increment(static_cast<double>(candidates_.dropped() - dropped_shown_));
  dropped_shown_ = candidates_.dropped();
  metrics_.queries_outstanding.Set(static_cast<double>(outstanding_.size()));
  metrics_.pairs_both_orders.Set(static_cast<double>(comparisons_.both_orders()));
  metrics_.pairs_flipped.Set(static_cast<double>(comparisons_.flips()));
  metrics_.label_log_next_sequence.Set(static_cast<double>(next_sequence_));
  metrics_.annotator_connected.Set(annotator_connected_);
  metrics_.learner_connected.Set(learner_ != nullptr);
  metrics_.texts_missing.Set(static_cast<double>(text_requests_.missing()));
}

}  // namespace sibyl::reward_model
