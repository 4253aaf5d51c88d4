#include "learner/serving/unroll_receiver.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

// Events that wait. Each actor has at most an attachment, a detachment, and a batch or unrolls.
constexpr size_t kQueueCapacity = size_t{1} << 20;
// Captions whose reward one actor is told; beyond them it is told anew.
constexpr size_t kMostTold = 100'000;

}  // namespace

UnrollReceiver::UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec,
                               const ExperienceBooks& books, Clock* clock, Metrics* metrics)
    : columns_{books.unrolls->shape().length, static_cast<int>(experiment.actor().environments()), spec.action(),
               static_cast<size_t>(books.unrolls->shape().value_heads), books.unrolls->shape().state_size},
      spec_(spec),
      feedback_(experiment, spec),
      books_(books),
      clock_(clock),
      queue_(kQueueCapacity, clock),
      batches_counter_(
          metrics->Counter("sibyl_learner_unroll_batches_total", "Batches of unrolls received from local actors.")),
      seconds_counter_(metrics->Counter("sibyl_learner_unroll_batches_seconds_total",
                                        "Time spent checking and writing batches of unrolls.")),
      starved_seconds_(metrics->Counter("sibyl_learner_room_waits_seconds_total",
                                        "Time that the receiver had nothing to do while local actors' room waited for "
                                        "training to release unrolls.")) {}

void UnrollReceiver::Attach(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink) {
  queue_.Push({Event::kAttach, lease, std::move(sink), {}, {}});
}

bool UnrollReceiver::Submit(const v1::SlotLease& lease, v1::UnrollBatch batch) {
  return queue_.Push({Event::kBatch, lease, nullptr, std::move(batch), {}});
}

void UnrollReceiver::Detach(const v1::SlotLease& lease) { queue_.Push({Event::kDetach, lease, nullptr, {}, {}}); }

void UnrollReceiver::Run() {
  std::vector<Event> events;
  while (true) {
    const absl::Time waiting = clock_->Now();
    const bool starved = waiting_ > 0;
    events.clear();
    if (!queue_.Pop(1, absl::InfiniteDuration(), &events)) return;
    const absl::Time begin = clock_->Now();
    if (starved) starved_seconds_.Increment(absl::ToDoubleSeconds(begin - waiting));
    for (Event& event : events) Handle(event);
    seconds_counter_.Increment(absl::ToDoubleSeconds(clock_->Now() - begin));
  }
}

void UnrollReceiver::Handle(Event& event) {
  const auto it = actors_.find(event.lease.slot());
  if (event.kind == Event::kAttach) {
    if (it != actors_.end()) Forget(v1::SlotLease(it->second->lease));
    auto& actor = actors_[event.lease.slot()];
    actor.reset(new Actor{
        event.lease,
        std::move(event.sink),
        {spec_, &feedback_, /*told_by_actor=*/true, books_, event.lease.slot(), /*groups=*/1, columns_.environments},
        {}});
    RequestRoom(*actor);
    return;
  }
  if (it == actors_.end() || it->second->lease.token() != event.lease.token()) {
    books_.unrolls->Release(std::move(event.unrolls));
    return;
  }
  Actor& actor = *it->second;
  switch (event.kind) {
    case Event::kBatch:
      if (const absl::Status status = Take(actor, event.batch); !status.ok()) {
        actor.sink->Refuse(status);
        Forget(event.lease);
        break;
      }
      batches_counter_.Increment();
      books_.steps->AddBytes(event.batch.ByteSizeLong());
      RequestRoom(actor);
      break;
    case Event::kUnrolls:
      --waiting_;
      GiveRoom(actor, std::move(event.unrolls));
      break;
    default:
      Forget(event.lease);
  }
}

void UnrollReceiver::Forget(const v1::SlotLease& lease) {
  const auto it = actors_.find(lease.slot());
  if (it == actors_.end() || it->second->lease.token() != lease.token()) return;
  books_.unrolls->Withdraw(lease.token());
  if (it->second->waits) --waiting_;
  books_.unrolls->Release(std::move(it->second->room));
  actors_.erase(it);
}

void UnrollReceiver::RequestRoom(Actor& actor) {
  Unrolls unrolls =
      books_.unrolls->Request(actor.lease.token(), columns_.environments, [this, lease = actor.lease](Unrolls granted) {
        queue_.Push({Event::kUnrolls, lease, nullptr, {}, std::move(granted)});
      });
  actor.waits = unrolls.empty();
  if (actor.waits) {
    ++waiting_;
  } else {
    GiveRoom(actor, std::move(unrolls));
  }
}

void UnrollReceiver::GiveRoom(Actor& actor, Unrolls unrolls) {
  actor.waits = false;
  actor.room = std::move(unrolls);
  v1::Room room;
  room.set_batches(actor.batches);
  TellCaptions(actor, &room);
  actor.sink->GiveRoom(std::move(room));
}

void UnrollReceiver::TellCaptions(Actor& actor, v1::Room* room) {
  if (!feedback_.reads_captions()) return;
  std::vector<uint64_t> ids;
  for (const auto& [id, reward] : actor.told) ids.push_back(id);
  std::vector<float> rewards(ids.size());
  books_.captions->RewardsOf(ids, rewards.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    float& told = actor.told[ids[i]];
    if (told == rewards[i]) continue;
    told = rewards[i];
    v1::CaptionReward* worth = room->add_captions();
    worth->set_id(ids[i]);
    worth->set_reward(rewards[i]);
  }
  room->set_forget_captions(std::exchange(actor.forget, false));
}

void UnrollReceiver::NoteCaptions(Actor& actor, const v1::StepBatch& step) {
  for (const std::string* column : {&step.caption_id(), &step.first_caption_id()}) {
    for (size_t i = 0; i < CountIn<uint64_t>(*column); ++i) {
      const uint64_t id = EntryOf<uint64_t>(*column, i);
      if (id == 0 || actor.told.contains(id)) continue;
      if (actor.told.size() >= kMostTold) {
        actor.told.clear();
        actor.forget = true;
      }
      actor.told[id] = 0;
    }
  }
}

absl::Status UnrollReceiver::Check(const Actor& actor, const v1::UnrollBatch& batch) const {
  if (batch.sequence() != actor.batches || actor.room.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " without room; ", actor.batches, " have been taken"));
  }
  const int steps = columns_.unroll_length + (actor.batches == 0 ? 1 : 0);
  if (batch.steps_size() != steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " has ", batch.steps_size(), " steps, must have ", steps));
  }
  for (int i = 0; i < steps; ++i) SIBYL_RETURN_IF_ERROR(actor.writer.Check(batch.steps(i), i));
  return CheckColumns(batch, columns_);
}

absl::Status UnrollReceiver::Take(Actor& actor, const v1::UnrollBatch& batch) {
  SIBYL_RETURN_IF_ERROR(Check(actor, batch));
  const size_t action_bytes = ActionBytes(columns_.action), E = columns_.environments, V = columns_.value_heads,
               H = columns_.state_size;
  // Copies, because a column of a message need not be aligned.
  std::vector<float> values(CountIn<float>(batch.value())), states(CountIn<float>(batch.state()));
  std::memcpy(values.data(), batch.value().data(), batch.value().size());
  std::memcpy(states.data(), batch.state().data(), batch.state().size());
  std::vector<uint64_t> textless;
  // A stream's first batch brings its o_0 along.
  auto step = batch.steps().begin();
  if (actor.batches == 0) SIBYL_RETURN_IF_ERROR(actor.writer.Write(*step++, &textless));
  actor.writer.Begin(0, std::move(actor.room));
  actor.room.clear();
  for (size_t t = 0; step != batch.steps().end(); ++t, ++step) {
    for (size_t row = 0; row < E; ++row) {
      const size_t cell = t * E + row;
      actor.writer.WriteDecision(static_cast<int>(row),
                                 {&batch.action()[cell * action_bytes], EntryOf<float>(batch.log_prob(), cell),
                                  &values[cell * V], EntryOf<uint64_t>(batch.version(), t), states.data() + row * H});
    }
    SIBYL_RETURN_IF_ERROR(actor.writer.Write(*step, &textless));
  }
  if (feedback_.reads_captions()) {
    for (const v1::StepBatch& taken : batch.steps()) NoteCaptions(actor, taken);
  }
  ++actor.batches;
  RequestTexts(*actor.sink, &textless);
  return absl::OkStatus();
}

}  // namespace sibyl::learner
