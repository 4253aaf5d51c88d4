#include "learner/serving/unroll_receiver.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/columns.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "learner/experience/check_step.h"
#include "policy/value_heads.h"

namespace sibyl::learner {
namespace {

bool AllFinite(const std::string& floats) {
  for (size_t i = 0; i < CountIn<float>(floats); ++i) {
    if (!std::isfinite(EntryOf<float>(floats, i))) return false;
  }
  return true;
}

}  // namespace

UnrollReceiver::UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, int64_t state_size,
                               UnrollPool* unrolls, CaptionTable* captions, EpisodeStats* episodes, StepCounter* steps,
                               Metrics* metrics)
    : unroll_length_(static_cast<int>(experiment.learner().unroll_length())),
      environments_(static_cast<int>(experiment.actor().environments())),
      group_rows_(environments_ / static_cast<int>(experiment.actor().groups())),
      actions_(spec.actions_size()),
      state_size_(state_size),
      heads_(ValueCount(experiment.policy())),
      observation_bytes_(ObservationBytes(spec)),
      unrolls_(unrolls),
      captions_(captions),
      episodes_(episodes),
      steps_(steps),
      batches_counter_(
          metrics->Counter("sibyl_learner_unroll_batches_total", "Batches of unrolls received from local actors.")),
      seconds_counter_(metrics->Counter("sibyl_learner_unroll_batches_seconds_total",
                                        "Time spent checking and writing batches of unrolls.")),
      starved_seconds_(metrics->Counter("sibyl_learner_room_waits_seconds_total",
                                        "Time that local actors' room waited for training to release unrolls.")) {}

void UnrollReceiver::Attach(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink) {
  MutexLock lock(mutex_);
  incoming_.push_back({Event::kAttach, lease, std::move(sink), {}});
  arrived_.NotifyOne();
}

void UnrollReceiver::Submit(const v1::SlotLease& lease, v1::UnrollBatch batch) {
  MutexLock lock(mutex_);
  incoming_.push_back({Event::kBatch, lease, nullptr, std::move(batch)});
  arrived_.NotifyOne();
}

void UnrollReceiver::Detach(const v1::SlotLease& lease) {
  MutexLock lock(mutex_);
  incoming_.push_back({Event::kDetach, lease, nullptr, {}});
  arrived_.NotifyOne();
}

void UnrollReceiver::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  arrived_.NotifyAll();
}

void UnrollReceiver::Run() {
  while (true) {
    std::deque<Event> events;
    {
      MutexLock lock(mutex_);
      while (!closed_ && incoming_.empty() && waiting_.empty()) arrived_.Wait(mutex_);
      if (closed_) return;
      events.swap(incoming_);
    }
    for (Event& event : events) Handle(event);
    events.clear();
    if (!GiveRoom()) {
      // A batch that arrives now waits with them; training has work as long as no unroll is free.
      const absl::Time begin = absl::Now();
      unrolls_->WaitForRelease();
      starved_seconds_.Increment(absl::ToDoubleSeconds(absl::Now() - begin));
    }
  }
}

void UnrollReceiver::Handle(Event& event) {
  if (event.kind == Event::kDetach) return HandleDetach(event.lease);
  const auto it = actors_.find(event.lease.slot());
  if (event.kind == Event::kAttach) {
    if (it != actors_.end()) HandleDetach(v1::SlotLease(it->second->lease));
    auto actor = std::make_unique<Actor>();
    actor->lease = event.lease;
    actor->sink = std::move(event.sink);
    waiting_.push_back(actor.get());
    actors_[event.lease.slot()] = std::move(actor);
    return;
  }
  if (it == actors_.end() || it->second->lease.token() != event.lease.token()) return;
  Actor& actor = *it->second;
  const absl::Time begin = absl::Now();
  if (const absl::Status status = Take(actor, event.batch); !status.ok()) {
    actor.sink->Refuse(status);
    return;
  }
  waiting_.push_back(&actor);
  batches_counter_.Increment();
  steps_->AddBytes(event.batch.ByteSizeLong());
  seconds_counter_.Increment(absl::ToDoubleSeconds(absl::Now() - begin));
}

void UnrollReceiver::HandleDetach(const v1::SlotLease& lease) {
  const auto it = actors_.find(lease.slot());
  if (it == actors_.end() || it->second->lease.token() != lease.token()) return;
  const Actor& actor = *it->second;
  std::vector<int32_t> pinned;
  for (const Begin& begin : actor.begins) pinned.push_back(begin.caption);
  captions_->Unpin(pinned);
  unrolls_->Release(actor.unrolls);
  unrolls_->Withdraw(&claim_);  // it may have been this actor's; another's is made again
  episodes_->Abandon(actor.begins.size());
  std::erase(waiting_, &actor);
  actors_.erase(it);
}

bool UnrollReceiver::GiveRoom() {
  while (!waiting_.empty()) {
    Actor& actor = *waiting_.front();
    // A group's at a time: more at once might never be free.
    const int missing = environments_ - static_cast<int>(actor.unrolls.size());
    std::vector<int> more;
    if (!unrolls_->Take(std::min(missing, group_rows_), &claim_, &more)) return false;
    actor.unrolls.insert(actor.unrolls.end(), more.begin(), more.end());
    if (static_cast<int>(actor.unrolls.size()) < environments_) continue;
    waiting_.pop_front();
    actor.sink->GiveRoom(actor.batches);
  }
  return true;
}

absl::Status UnrollReceiver::Check(const Actor& actor, const v1::UnrollBatch& batch) const {
  if (batch.sequence() != actor.batches || static_cast<int>(actor.unrolls.size()) < environments_) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " without room; ", actor.batches, " have been taken"));
  }
  const int steps = unroll_length_ + (actor.batches == 0 ? 1 : 0);
  if (batch.steps_size() != steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("unroll batch ", batch.sequence(), " has ", batch.steps_size(), " steps, must have ", steps));
  }
  for (int i = 0; i < steps; ++i) {
    if (batch.steps(i).group() != 0) {
      return absl::InvalidArgumentError(absl::StrCat("a local actor's step of group ", batch.steps(i).group()));
    }
    SIBYL_RETURN_IF_ERROR(CheckStep(batch.steps(i), environments_, actor.next_step + i));
  }
  const size_t cells = size_t(unroll_length_) * environments_;
  const struct {
    const char* name;
    const std::string& column;
    size_t bytes;
  } columns[] = {
      {"action", batch.action(), cells * sizeof(uint16_t)},
      {"log_prob", batch.log_prob(), cells * sizeof(float)},
      {"value", batch.value(), cells * heads_ * sizeof(float)},
      {"version", batch.version(), unroll_length_ * sizeof(uint64_t)},
      {"state", batch.state(), environments_ * state_size_ * sizeof(float)},
  };
  for (const auto& [name, column, bytes] : columns) {
    if (column.size() != bytes) {
      return absl::InvalidArgumentError(absl::StrCat("an unroll batch's ", name, " has ", column.size(),
                                                     " bytes, must have ", bytes, " (", unroll_length_, " steps of ",
                                                     environments_, " environments)"));
    }
  }
  for (size_t i = 0; i < cells; ++i) {
    if (const int action = EntryOf<uint16_t>(batch.action(), i); action >= actions_) {
      return absl::InvalidArgumentError(absl::StrCat("action ", action, " of ", actions_));
    }
  }
  if (!AllFinite(batch.log_prob()) || !AllFinite(batch.value()) || !AllFinite(batch.state())) {
    return absl::InvalidArgumentError("an unroll batch with a log_prob, value or state that is not finite");
  }
  return absl::OkStatus();
}

absl::Status UnrollReceiver::Take(Actor& actor, const v1::UnrollBatch& batch) {
  SIBYL_RETURN_IF_ERROR(Check(actor, batch));
  SIBYL_RETURN_IF_ERROR(WriteObservations(actor, batch));
  WriteColumns(actor, batch);
  WriteSteps(actor, batch);
  unrolls_->Finish(actor.unrolls);
  actor.unrolls.clear();
  ++actor.batches;
  actor.next_step += batch.steps_size();
  steps_->Add(uint64_t(unroll_length_) * environments_);
  return absl::OkStatus();
}

absl::Status UnrollReceiver::WriteObservations(Actor& actor, const v1::UnrollBatch& batch) {
  const auto write = [&](absl::string_view observations, int t) {
    for (int row = 0; row < environments_; ++row) {
      std::memcpy(&(*unrolls_)[actor.unrolls[row]].observation[t * observation_bytes_],
                  observations.data() + row * observation_bytes_, observation_bytes_);
    }
  };
  // A stream's first batch brings its o_0 along.
  int t = actor.batches == 0 ? 0 : 1;
  if (t == 1) write(actor.observations, 0);
  for (const v1::StepBatch& step : batch.steps()) {
    absl::string_view observations, finals;
    SIBYL_RETURN_IF_ERROR(actor.unpacker.Unpack(step.observation(), observation_bytes_, &observations));
    write(observations, t);
    if (step.final_observation().rows() > 0) {
      SIBYL_RETURN_IF_ERROR(actor.final_unpacker.Unpack(step.final_observation(), observation_bytes_, &finals));
    }
    for (int row = 0; row < environments_ && !finals.empty(); ++row) {
      const unsigned char flags = step.flags()[row];
      if ((flags & (kTerminated | kTruncated)) == 0) continue;
      if (flags & kTruncated) {
        (*unrolls_)[actor.unrolls[row]].finals.push_back({t - 1, std::string(finals.substr(0, observation_bytes_))});
      }
      finals.remove_prefix(observation_bytes_);
    }
    if (t == unroll_length_) actor.observations.assign(observations.data(), observations.size());
    ++t;
  }
  return absl::OkStatus();
}

void UnrollReceiver::WriteColumns(Actor& actor, const v1::UnrollBatch& batch) {
  for (int row = 0; row < environments_; ++row) {
    Unroll& unroll = (*unrolls_)[actor.unrolls[row]];
    unroll.slot = actor.lease.slot();
    unroll.environment = row;
    for (int t = 0; t < unroll_length_; ++t) {
      const size_t cell = size_t(t) * environments_ + row;
      unroll.action[t] = EntryOf<uint16_t>(batch.action(), cell);
      unroll.log_prob[t] = EntryOf<float>(batch.log_prob(), cell);
      for (size_t head = 0; head < heads_; ++head) {
        unroll.value[t * heads_ + head] = EntryOf<float>(batch.value(), cell * heads_ + head);
      }
    }
    std::memcpy(unroll.version.data(), batch.version().data(), batch.version().size());
    if (state_size_ > 0) {
      std::memcpy(unroll.state.data(), batch.state().data() + row * state_size_ * sizeof(float),
                  state_size_ * sizeof(float));
    }
  }
}

void UnrollReceiver::WriteSteps(Actor& actor, const v1::UnrollBatch& batch) {
  // Every caption that occurred, step by step: what the actions led to, then those of the episodes that start.
  std::vector<uint64_t> ids;
  for (const v1::StepBatch& step : batch.steps()) {
    for (const std::string* column : {&step.caption_id(), &step.first_caption_id()}) {
      const size_t had = ids.size();
      ids.resize(had + CountIn<uint64_t>(*column));
      std::memcpy(ids.data() + had, column->data(), column->size());
    }
  }
  std::vector<int32_t> rows(ids.size());
  captions_->See(ids, steps_->received(), rows.data());
  for (const v1::StepBatch& step : batch.steps()) captions_->AddTexts(step.texts());
  std::vector<int32_t> distinct = rows;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  if (const auto missing = captions_->WithoutText(distinct); !missing.empty()) {
    v1::CaptionTextRequest request;
    request.mutable_ids()->Assign(missing.begin(), missing.end());
    actor.sink->RequestTexts(std::move(request));
  }

  const bool starting = actor.begins.empty();
  actor.begins.resize(environments_);
  const auto begin_at = [&](Unroll& unroll, int t, const Begin& begin) {
    unroll.first[t] = begin.first;
    unroll.episode[t] = begin.episode;
    unroll.seen_caption[t] = begin.caption;
    unroll.seen_count[t] = begin.count;
  };
  for (int row = 0; row < environments_ && !starting; ++row) {
    begin_at((*unrolls_)[actor.unrolls[row]], 0, actor.begins[row]);
  }
  std::vector<int32_t> named_twice;
  const int32_t* step_rows = rows.data();
  int t = starting ? -1 : 0;
  for (const v1::StepBatch& step : batch.steps()) {
    episodes_->Add(step.episodes());
    const int32_t* paid = step_rows;
    const int32_t* started = step_rows + environments_;
    size_t first = 0;
    for (int row = 0; row < environments_; ++row) {
      const unsigned char flags = step.flags()[row];
      Unroll& unroll = (*unrolls_)[actor.unrolls[row]];
      Begin& next = actor.begins[row];
      next.first = (flags & kFirst) != 0;
      if (next.first) {
        next.caption = started[first];
        next.count = next.caption != 0 ? 1 : 0;
        next.episode = EntryOf<uint64_t>(step.first_episode(), first++);
      } else {
        next.caption = paid[row];
        next.count = EntryOf<uint32_t>(step.caption_count(), row);
      }
      begin_at(unroll, t + 1, next);
      if (t < 0) continue;
      unroll.reward[t] = EntryOf<float>(step.reward(), row);
      unroll.terminated[t] = (flags & kTerminated) != 0;
      unroll.truncated[t] = (flags & kTruncated) != 0;
      unroll.paid_caption[t] = paid[row];
      unroll.paid_count[t] = EntryOf<uint32_t>(step.caption_count(), row);
      if (!next.first) named_twice.push_back(paid[row]);                 // also by seen_caption
      if (t + 1 == unroll_length_) named_twice.push_back(next.caption);  // also by the next unroll
    }
    step_rows = started + first;
    ++t;
  }
  captions_->Pin(named_twice);
}

}  // namespace sibyl::learner
