#include "learner/serving/unroll_receiver.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

// Captions whose reward one actor is told; beyond them it is told anew.
constexpr size_t kMostTold = 100'000;

}  // namespace

UnrollReceiver::UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec,
                               const ExperienceBooks& books, Clock* clock, Heartbeats* heartbeats, Metrics* metrics)
    : ActorLoop(
          "unrolls", books, clock, heartbeats,
          metrics->Counter("sibyl_learner_unroll_batches_seconds_total",
                           "Time spent checking and writing batches of unrolls."),
          metrics->Counter("sibyl_learner_batch_request_waits_seconds_total",
                           "Time that the receiver had nothing to do while a request for a batch waited for training "
                           "to release unrolls.")),
      columns_{books.unrolls->shape().length, static_cast<int>(experiment.actor().environments()), spec.action(),
               static_cast<size_t>(books.unrolls->shape().value_heads), books.unrolls->shape().state_size},
      spec_(spec),
      feedback_(experiment, spec),
      batches_counter_(
          metrics->Counter("sibyl_learner_unroll_batches_total", "Batches of unrolls received from local actors.")) {}

std::unique_ptr<LocalActor> UnrollReceiver::MakeActor(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink) {
  std::unique_ptr<LocalActor> actor(new LocalActor{
      {lease,
       std::move(sink),
       {spec_, &feedback_, /*told_by_actor=*/true, books_, lease.slot(), /*groups=*/1, columns_.environments}},
      {}});
  TakeUnrolls(*actor);
  return actor;
}

absl::Status UnrollReceiver::OnMessage(LocalActor& actor, const v1::UnrollBatch& batch) {
  SIBYL_RETURN_IF_ERROR(Take(actor, batch));
  batches_counter_.Increment();
  books_.steps->AddBytes(batch.ByteSizeLong());
  TakeUnrolls(actor);
  return absl::OkStatus();
}

void UnrollReceiver::OnUnrolls(LocalActor& actor, uint32_t /*group*/, Unrolls unrolls) {
  actor.next = std::move(unrolls);
  v1::BatchRequest request;
  request.set_sequence(actor.batches);
  TellCaptions(actor, &request);
  actor.sink->RequestBatch(std::move(request));
}

void UnrollReceiver::TellCaptions(LocalActor& actor, v1::BatchRequest* request) {
  if (!feedback_.reads_captions()) return;
  std::vector<uint64_t> ids;
  for (const auto& [id, reward] : actor.told) ids.push_back(id);
  std::vector<float> rewards(ids.size());
  books_.captions->RewardsOf(ids, rewards.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    float& told = actor.told[ids[i]];
    if (told == rewards[i]) continue;
    told = rewards[i];
    v1::CaptionReward* worth = request->add_captions();
    worth->set_id(ids[i]);
    worth->set_reward(rewards[i]);
  }
  request->set_forget_captions(std::exchange(actor.forget, false));
}

void UnrollReceiver::NoteCaptions(LocalActor& actor, const v1::StepBatch& step) {
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

void UnrollReceiver::OnForget(LocalActor& actor) { books_.unrolls->Release(std::move(actor.next)); }

void UnrollReceiver::TakeUnrolls(LocalActor& actor) {
  Unrolls unrolls = RequestUnrolls(actor, 0, columns_.environments);
  if (!unrolls.empty()) OnUnrolls(actor, 0, std::move(unrolls));
}

absl::Status UnrollReceiver::Check(const LocalActor& actor, const v1::UnrollBatch& batch) const {
  if (batch.sequence() != actor.batches || actor.next.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " was not requested; ", actor.batches, " have been taken"));
  }
  const int steps = columns_.unroll_length + (actor.batches == 0 ? 1 : 0);
  if (batch.steps_size() != steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " has ", batch.steps_size(), " steps, must have ", steps));
  }
  for (int i = 0; i < steps; ++i) SIBYL_RETURN_IF_ERROR(actor.writer.Check(batch.steps(i), i));
  return CheckColumns(batch, columns_);
}

absl::Status UnrollReceiver::Take(LocalActor& actor, const v1::UnrollBatch& batch) {
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
  actor.writer.Begin(0, std::move(actor.next));
  actor.next.clear();
  for (size_t t = 0; step != batch.steps().end(); ++t, ++step) {
    for (size_t row = 0; row < E; ++row) {
      const size_t cell = t * E + row;
      actor.writer.WriteDecision(
          static_cast<int>(row),
          {&batch.action()[cell * action_bytes], EntryOf<float>(batch.log_prob(), cell), &values[cell * V],
           EntryOf<uint64_t>(batch.policy_version(), t), states.data() + row * H});
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
