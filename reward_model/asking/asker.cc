#include "reward_model/asking/asker.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {
namespace {

constexpr absl::Duration kTryAgainWhenFull = absl::Seconds(1);
// Captions among which a partner for a comparison is chosen; twice as many are looked at to find so many.
constexpr int kPartnersLookedAt = 16;
// A caption that the model has no idea of is as urgent as one seen sixteen times as often that it is sure of.
constexpr double kSureOf = 1.0 / 16;
// More than any caption's urgency: a step counts 1e-6, a doubling of the count 1.
constexpr double kMostUrgent = 1e12;

// What was in view when each was first seen.
std::string Context(const Caption& first, const Caption* second) {
  if (second == nullptr || (first.context.empty() && second->context.empty())) return first.context;
  const auto shown = [](const Caption& caption) {
    return caption.context.empty() ? std::string("unknown") : caption.context;
  };
  return absl::StrCat("first: ", shown(first), "; second: ", shown(*second));
}

}  // namespace

OrderedPair SubjectOf(const v1::Query& query) {
  const std::vector<std::string> captions = Captions(query);
  return {CaptionId(captions[0]), captions.size() > 1 ? CaptionId(captions[1]) : 0};
}

Asker::Asker(const v1::RewardModelConfig& config, Knowledge knowledge, uint64_t seed, Clock& clock)
    : config_(config),
      compares_(Compares(config)),
      labels_wanted_(compares_ ? config.pairs().comparisons() : 1),
      known_(knowledge),
      clock_(clock),
      random_(seed),
      candidates_(config.max_candidates()) {}

void Asker::Connect() {
  ++connection_;
  connected_ = true;
  room_ = kUnknownRoom;
  const auto outstanding = std::exchange(outstanding_, {});
  for (const auto& [subject, id] : outstanding) states_[id].waiting = 0;
  for (const auto& [subject, id] : outstanding) {
    if (const Caption* caption = known_.captions.Find(id); caption != nullptr) Offer(*caption);
  }
}

void Asker::SetRoom(size_t room, bool full) {
  room_ = full ? 0 : room;
  try_again_at_ = room_ == 0 ? clock_.Now() + kTryAgainWhenFull : absl::InfinitePast();
}

void Asker::AddRoom() {
  if (room_ != kUnknownRoom) ++room_;
}

size_t Asker::Wanted() const {
  if (!connected_ || outstanding_.size() >= config_.queue_target()) return 0;
  size_t free = config_.queue_target() - outstanding_.size();
  // A few at a time, not one call for each label that comes.
  if (free * 4 < config_.queue_target()) return 0;
  if (compares_ && config_.pairs().both_orders()) free = (free + 1) / 2;
  if (room_ > 0) return std::min(free, room_);
  return clock_.Now() >= try_again_at_ ? 1 : 0;
}

bool Asker::MayAsk(const Caption& caption) const {
  if (caption.text().empty()) return false;
  if (caption.count < config_.ask_after() && !first_.contains(caption.id)) return false;
  const auto it = states_.find(caption.id);
  if (it != states_.end() && (it->second.waiting > 0 || it->second.refused)) return false;
  return known_.tallies.Of(caption.id).labels() < labels_wanted_;
}

double Asker::UrgencyOf(const Caption& caption) const {
  return first_.contains(caption.id) ? kMostUrgent : Urgency(caption.count, caption.last_step);
}

bool Asker::Offer(const Caption& caption) {
  if (!config_.weights_file().empty() || !MayAsk(caption)) return false;
  double urgency = UrgencyOf(caption);
  if (config_.training().ask_unsure() && !compares_) {
    // Of a probability p, p (1 - p) is at most 1/4, and a deviation at most 1/2.
    urgency += std::log2(std::clamp(2 * known_.model.Uncertainty(caption, nullptr), kSureOf, 1.0));
  }
  candidates_.Offer(caption.id, urgency);
  return true;
}

Questions Asker::Take() {
  Questions questions;
  questions.connection = connection_;
  for (const uint64_t id : candidates_.Take(Wanted())) {
    const Caption& caption = *known_.captions.Find(id);
    if (!compares_) {
      Ask(caption, caption, nullptr, &questions.request);
    } else if (const Caption* partner = ChoosePartner(caption); partner != nullptr) {
      const bool both = config_.pairs().both_orders(), swapped = !both && random_.Below(2) == 1;
      if (!swapped) Ask(caption, caption, partner, &questions.request);
      if (both || swapped) Ask(caption, *partner, &caption, &questions.request);
    }
  }
  return questions;
}

void Asker::Ask(const Caption& caption, const Caption& first, const Caption* second, v1::AskRequest* request) {
  ++states_[caption.id].waiting;
  outstanding_[{first.id, second == nullptr ? 0 : second->id}] = caption.id;
  v1::Query& query = *request->add_queries();
  query = MakeQuery(config_, first.text(), second == nullptr ? nullptr : &second->text(), Context(first, second));
  query.set_tag(caption.id);
  query.set_priority(UrgencyOf(caption));
}

const Caption* Asker::ChoosePartner(const Caption& caption) {
  const CaptionBook& captions = known_.captions;
  std::vector<const Caption*> found;
  const int wanted = config_.pairs().strategy() == v1::PAIR_STRATEGY_RANDOM ? 1 : kPartnersLookedAt;
  for (int i = 0; i < 2 * kPartnersLookedAt && static_cast<int>(found.size()) < wanted; ++i) {
    const Caption* other = captions.At(random_.Below(captions.places()));
    if (other == nullptr || other == &caption || other->text().empty() || other->count < config_.ask_after()) continue;
    const auto state = states_.find(other->id);
    if (state != states_.end() && state->second.refused) continue;
    if (known_.comparisons.Has(caption.id, other->id) || outstanding_.contains({caption.id, other->id}) ||
        outstanding_.contains({other->id, caption.id})) {
      continue;
    }
    found.push_back(other);
  }
  if (found.empty()) return nullptr;
  if (config_.pairs().strategy() == v1::PAIR_STRATEGY_UNCERTAIN) {
    std::vector<double> uncertainty;
    for (const Caption* other : found) uncertainty.push_back(known_.model.Uncertainty(caption, other));
    return found[std::max_element(uncertainty.begin(), uncertainty.end()) - uncertainty.begin()];
  }
  uint64_t total = 0;
  for (const Caption* other : found) total += other->count;
  uint64_t at = random_.Below(total);
  size_t chosen = 0;
  while (at >= found[chosen]->count) at -= found[chosen++]->count;
  return found[chosen];
}

void Asker::SetAsked(uint64_t id) {
  State& state = states_[id];
  captions_asked_ += !state.asked;
  state.asked = true;
}

bool Asker::IsAsked(uint64_t id) const {
  const auto it = states_.find(id);
  return it != states_.end() && it->second.asked;
}

void Asker::Release(OrderedPair subject) {
  const auto it = outstanding_.find(subject);
  if (it == outstanding_.end()) return;
  const uint64_t id = it->second;
  outstanding_.erase(it);
  State& state = states_[id];
  if (state.waiting > 0) --state.waiting;
  // One of several comparisons: the next.
  const Caption* caption = compares_ ? known_.captions.Find(id) : nullptr;
  if (caption != nullptr) Offer(*caption);
}

void Asker::OnLabel(const Caption& caption) {
  if (!MayAsk(caption)) candidates_.Remove(caption.id);
}

void Asker::Refuse(uint64_t id) {
  states_[id].refused = true;
  candidates_.Remove(id);
}

bool Asker::IsWaiting(uint64_t id) const {
  const auto it = states_.find(id);
  return it != states_.end() && it->second.waiting > 0;
}

void Asker::Forget(uint64_t id) {
  candidates_.Remove(id);
  const auto it = states_.find(id);
  if (it == states_.end()) return;
  captions_asked_ -= it->second.asked;
  states_.erase(it);
}

void Asker::ForgetAll() {
  states_.clear();
  captions_asked_ = 0;
  outstanding_.clear();
}

size_t Asker::bytes() const {
  return candidates_.bytes() + states_.capacity() * (sizeof(uint64_t) + sizeof(State) + 1);
}

}  // namespace sibyl::reward_model
