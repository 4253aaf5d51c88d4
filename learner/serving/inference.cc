#include "learner/serving/inference.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/columns.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "learner/experience/check_step.h"
#include "policy/draw.h"
#include "policy/observation_tensor.h"

namespace sibyl::learner {

Inference::Inference(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, torch::Device device,
                     PolicyStore* policies, UnrollPool* unrolls, CaptionTable* captions, EpisodeStats* episodes,
                     StepCounter* steps, Metrics* metrics)
    : unroll_length_(static_cast<int>(experiment.learner().unroll_length())),
      environments_(static_cast<int>(experiment.actor().environments())),
      groups_(static_cast<int>(experiment.actor().groups())),
      group_rows_(environments_ / groups_),
      max_rows_(static_cast<int>(experiment.learner().inference_batch())),
      wait_(static_cast<int64_t>(experiment.learner().inference_wait_ms() * 1e6)),
      spec_(spec),
      observation_bytes_(ObservationBytes(spec)),
      device_(device),
      policies_(policies),
      unrolls_(unrolls),
      captions_(captions),
      episodes_(episodes),
      steps_(steps),
      staged_(spec.observation_size()),
      random_(Mix64(experiment.seed() ^ FreshRandom64())),
      batches_counter_(metrics->Counter("sibyl_learner_inference_batches_total", "Inference batches.")),
      batch_rows_(metrics->Histogram("sibyl_learner_inference_batch_rows", "Rows of an inference batch.",
                                     {1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096})),
      seconds_counter_(metrics->Counter("sibyl_learner_inference_seconds_total",
                                        "Time spent decoding steps, running the policy and answering.")),
      starved_seconds_(metrics->Counter("sibyl_learner_inference_waits_for_unrolls_seconds_total",
                                        "Time that steps waited because training had not released an unroll.")) {
  size_t offset = 0;
  for (const v1::TensorSpec& array : spec_.observation()) {
    arrays_.push_back({offset, Bytes(array)});
    offset += Bytes(array);
  }
  const int64_t rows = int64_t{experiment.actor().processes()} * environments_;
  states_ = torch::zeros({rows, policies->Get().policy->state_size()}, torch::TensorOptions().device(device));
}

void Inference::Push(Event event) {
  bool enough;
  {
    MutexLock lock(mutex_);
    if (incoming_.empty()) first_arrival_ = std::chrono::steady_clock::now();
    incoming_.push_back(std::move(event));
    enough = incoming_.size() >= wake_at_;
  }
  if (enough) arrived_.NotifyOne();
}

void Inference::Attach(const v1::SlotLease& lease, std::shared_ptr<ActionSink> sink) {
  Push({Event::kAttach, lease, std::move(sink), {}});
}

void Inference::Submit(const v1::SlotLease& lease, v1::StepBatch batch) {
  Push({Event::kStep, lease, nullptr, std::move(batch)});
}

void Inference::Detach(const v1::SlotLease& lease) { Push({Event::kDetach, lease, nullptr, {}}); }

void Inference::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  arrived_.NotifyAll();
}

void Inference::HandleDetach(const v1::SlotLease& lease) {
  const auto it = actors_.find(lease.slot());
  if (it == actors_.end() || it->second->lease.token() != lease.token()) return;
  std::vector<int> freed;
  uint64_t abandoned = 0;
  for (const Place& place : it->second->places) {
    if (place.unroll < 0) continue;
    captions_->Unpin((*unrolls_)[place.unroll].CaptionRows(place.t));
    freed.push_back(place.unroll);
    abandoned += place.playing;
  }
  unrolls_->Release(freed);
  unrolls_->Withdraw(&claim_);  // it may have been this actor's; another's is made again
  episodes_->Abandon(abandoned);
  std::deque<Event> kept;
  for (Event& event : pending_) {
    if (event.lease.token() == lease.token()) {
      pending_rows_ -= group_rows_;
    } else {
      kept.push_back(std::move(event));
    }
  }
  pending_ = std::move(kept);
  actors_.erase(it);
}

bool Inference::Gather() {
  std::deque<Event> events;
  {
    MutexLock lock(mutex_);
    // While one group of each actor is stepped, the others wait: no more rows than those can come.
    const int can_come = static_cast<int>(actors_.size()) * (environments_ - (groups_ > 1 ? group_rows_ : 0));
    const int missing = std::min(max_rows_, can_come) - pending_rows_;
    const size_t wanted = missing > 0 ? (missing + group_rows_ - 1) / group_rows_ : 0;
    const auto begin = std::chrono::steady_clock::now();
    // Waking up costs more than a step. So this thread is woken once, by whatever makes the batch whole; where nothing
    // comes for long it asks to be woken by the first that does, to know when that has waited long enough.
    while (!closed_) {
      const bool idle = incoming_.empty() && pending_.empty();
      if (!idle && incoming_.size() >= wanted) break;
      const auto until = (idle || !pending_.empty() ? begin : first_arrival_) + wait_;
      const auto left = until - std::chrono::steady_clock::now();
      const bool late = left <= left.zero();
      if (late && !idle) break;
      wake_at_ = late ? 1 : std::max<size_t>(wanted, 1);
      if (late) {
        arrived_.Wait(mutex_);
      } else {
        arrived_.WaitFor(mutex_, left);
      }
    }
    if (closed_) return false;
    events.swap(incoming_);
  }
  for (Event& event : events) {
    switch (event.kind) {
      case Event::kAttach: {
        auto actor = std::make_unique<Actor>();
        actor->lease = event.lease;
        actor->sink = std::move(event.sink);
        actor->unpackers.resize(groups_);
        actor->next_sequence.resize(groups_);
        actor->places.resize(environments_);
        if (const auto it = actors_.find(event.lease.slot()); it != actors_.end()) {
          HandleDetach(v1::SlotLease(it->second->lease));
        }
        actors_[event.lease.slot()] = std::move(actor);
        break;
      }
      case Event::kStep: {
        const auto it = actors_.find(event.lease.slot());
        if (it == actors_.end() || it->second->lease.token() != event.lease.token()) break;
        pending_.push_back(std::move(event));
        pending_rows_ += group_rows_;
        break;
      }
      case Event::kDetach:
        HandleDetach(event.lease);
        break;
    }
  }
  return true;
}

absl::Status Inference::CheckStep(const Actor& actor, const v1::StepBatch& batch) const {
  if (static_cast<int>(batch.group()) >= groups_) {
    return absl::InvalidArgumentError(absl::StrCat("group ", batch.group(), " of ", groups_));
  }
  return learner::CheckStep(batch, group_rows_, actor.next_sequence[batch.group()]);
}

int Inference::UnrollsNeeded(const Actor& actor, const v1::StepBatch& batch) const {
  int needed = 0;
  for (int row = 0; row < group_rows_; ++row) {
    const Place& place = actor.places[batch.group() * group_rows_ + row];
    needed += place.unroll < 0 || place.t + 1 == unroll_length_;
  }
  return needed;
}

absl::Status Inference::Decode(Actor& actor, const v1::StepBatch& batch, const std::vector<int>& fresh_unrolls) {
  absl::string_view observations, finals;
  SIBYL_RETURN_IF_ERROR(actor.unpackers[batch.group()].Unpack(batch.observation(), observation_bytes_, &observations));
  if (batch.final_observation().rows() > 0) {
    SIBYL_RETURN_IF_ERROR(actor.final_unpacker.Unpack(batch.final_observation(), observation_bytes_, &finals));
  }
  ++actor.next_sequence[batch.group()];

  // Captions: row 2i is what the action led to, row 2i + 1 the next episode's first where one starts.
  std::vector<uint64_t> ids(2 * group_rows_);
  for (int row = 0, first = 0; row < group_rows_; ++row) {
    ids[2 * row] = EntryOf<uint64_t>(batch.caption_id(), row);
    if (batch.flags()[row] & kFirst) ids[2 * row + 1] = EntryOf<uint64_t>(batch.first_caption_id(), first++);
  }
  std::vector<int32_t> caption_rows(ids.size());
  captions_->See(ids, steps_->received(), caption_rows.data());
  if (batch.texts_size() > 0) captions_->AddTexts(batch.texts());
  if (auto missing = captions_->WithoutText(caption_rows); !missing.empty()) {
    v1::CaptionTextRequest request;
    request.mutable_ids()->Assign(missing.begin(), missing.end());
    actor.sink->RequestTexts(std::move(request));
  }
  episodes_->Add(batch.episodes());

  const size_t first_row = rows_.size();
  staged_first_.resize(std::max(staged_first_.size(), first_row + group_rows_));
  for (size_t i = 0; i < arrays_.size(); ++i) {
    staged_[i].resize(std::max(staged_[i].size(), (first_row + group_rows_) * arrays_[i].bytes));
  }
  std::vector<int32_t> pinned_again;
  size_t fresh = 0;
  int first = 0, final_row = 0;
  for (int row = 0; row < group_rows_; ++row) {
    const int environment = static_cast<int>(batch.group()) * group_rows_ + row;
    Place& place = actor.places[environment];
    const unsigned char flags = batch.flags()[row];
    const char* observation = observations.data() + row * observation_bytes_;
    const bool starts = (flags & kFirst) != 0;
    const int32_t paid = caption_rows[2 * row];
    const int32_t seen = starts ? caption_rows[2 * row + 1] : paid;
    const uint32_t paid_count = EntryOf<uint32_t>(batch.caption_count(), row);
    const uint32_t seen_count = starts ? (seen != 0 ? 1 : 0) : paid_count;
    if (starts) place.episode = EntryOf<uint64_t>(batch.first_episode(), first++);

    // The second place that holds o_{t+1}: the end of the finished unroll is the start of the next.
    const auto begin_at = [&](Unroll& unroll, int t) {
      std::memcpy(&unroll.observation[t * observation_bytes_], observation, observation_bytes_);
      unroll.first[t] = starts;
      unroll.episode[t] = place.episode;
      unroll.seen_caption[t] = seen;
      unroll.seen_count[t] = seen_count;
    };
    if (place.unroll >= 0) {
      Unroll& unroll = (*unrolls_)[place.unroll];
      const int t = place.t;
      unroll.reward[t] = EntryOf<float>(batch.reward(), row);
      unroll.terminated[t] = (flags & kTerminated) != 0;
      unroll.truncated[t] = (flags & kTruncated) != 0;
      unroll.paid_caption[t] = paid;
      unroll.paid_count[t] = paid_count;
      if (!starts) pinned_again.push_back(paid);  // named twice, seen once
      if (flags & (kTerminated | kTruncated)) {
        if (unroll.truncated[t]) {
          unroll.finals.push_back({t, std::string(finals.data() + final_row * observation_bytes_, observation_bytes_)});
        }
        ++final_row;
      }
      begin_at(unroll, t + 1);
      ++place.t;
      if (place.t == unroll_length_) {
        finished_.push_back(place.unroll);
        pinned_again.push_back(seen);
        place.unroll = -1;
      }
    } else if (!starts) {
      return absl::InternalError("a step for an environment without an unroll");
    }
    if (place.unroll < 0) {
      place.unroll = fresh_unrolls[fresh++];
      place.t = 0;
      Unroll& unroll = (*unrolls_)[place.unroll];
      unroll.slot = actor.lease.slot();
      unroll.environment = environment;
      begin_at(unroll, 0);
    }
    place.playing = true;
    rows_.push_back({&actor, environment});
    staged_first_[first_row + row] = static_cast<char>(starts);
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const Array& array = arrays_[i];
      std::memcpy(&staged_[i][(first_row + row) * array.bytes], observation + array.offset, array.bytes);
    }
  }
  answers_.push_back({&actor, batch.group(), batch.sequence()});
  captions_->Pin(pinned_again);
  if (batch.sequence() > 0) steps_->Add(group_rows_);
  return absl::OkStatus();
}

int64_t Inference::StateRow(const Row& row) const {
  return int64_t{row.actor->lease.slot()} * environments_ + row.environment;
}

absl::Status Inference::Act() {
  const c10::InferenceMode no_gradients;
  const int64_t rows = static_cast<int64_t>(rows_.size());
  Observations observations;
  for (int i = 0; i < spec_.observation_size(); ++i) {
    observations.push_back(ViewAsTensor(spec_.observation(i), staged_[i].data(), {1, rows}).to(device_));
  }
  const torch::Tensor first = torch::from_blob(staged_first_.data(), {1, rows}, torch::kBool).to(device_);
  torch::Tensor index = torch::empty({rows}, torch::kInt64);
  for (int64_t i = 0; i < rows; ++i) index.data_ptr<int64_t>()[i] = StateRow(rows_[i]);
  index = index.to(device_);
  const torch::Tensor before = states_.index_select(0, index);

  const PolicyStore::Published published = policies_->Get();
  const PolicyOutput output = published.policy->Forward(observations, first, before);
  if (states_.size(1) > 0) states_.index_copy_(0, index, output.states[0]);
  const torch::Tensor log_probs = output.logits[0].log_softmax(-1).to(torch::kCPU).contiguous();
  const torch::Tensor values = output.value[0].to(torch::kCPU).contiguous();
  const torch::Tensor states = before.to(torch::kCPU).contiguous();
  const int64_t actions = log_probs.size(1), state_size = states.size(1), heads = values.size(1);

  std::vector<uint16_t> chosen(rows);
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = log_probs.data_ptr<float>() + i * actions;
    const int action = DrawAction(row, static_cast<int>(actions), random_);
    if (!std::isfinite(row[action])) {
      return absl::InternalError(absl::StrCat("the policy's output is not finite at version ", published.version));
    }
    chosen[i] = static_cast<uint16_t>(action);
    const Place& place = rows_[i].actor->places[rows_[i].environment];
    Unroll& unroll = (*unrolls_)[place.unroll];
    unroll.action[place.t] = chosen[i];
    unroll.log_prob[place.t] = row[action];
    std::copy_n(values.data_ptr<float>() + i * heads, heads, unroll.value.begin() + place.t * heads);
    unroll.version[place.t] = published.version;
    if (place.t == 0 && state_size > 0) {
      std::memcpy(unroll.state.data(), states.data_ptr<float>() + i * state_size, state_size * sizeof(float));
    }
  }
  int64_t row = 0;
  for (const Answer& answer : answers_) {
    v1::ActionBatch batch;
    batch.set_group(answer.group);
    batch.set_sequence(answer.sequence);
    batch.set_action(reinterpret_cast<const char*>(&chosen[row]), group_rows_ * sizeof(uint16_t));
    batch.set_policy_version(published.version);
    answer.actor->sink->SendActions(std::move(batch));
    row += group_rows_;
  }
  return absl::OkStatus();
}

absl::Status Inference::Run() {
  while (Gather()) {
    const absl::Time begin = absl::Now();
    rows_.clear();
    answers_.clear();
    bool starved = false;
    while (!pending_.empty() && static_cast<int>(rows_.size()) < max_rows_) {
      Event& event = pending_.front();
      Actor& actor = *actors_.at(event.lease.slot());
      absl::Status status = CheckStep(actor, event.batch);
      std::vector<int> fresh;
      if (status.ok() && !unrolls_->Take(UnrollsNeeded(actor, event.batch), &claim_, &fresh)) {
        starved = true;
        break;
      }
      if (status.ok()) {
        steps_->AddBytes(event.batch.ByteSizeLong());
        const size_t decoded = rows_.size();
        status = Decode(actor, event.batch, fresh);
        if (!status.ok() && rows_.size() == decoded) unrolls_->Release(fresh);
      }
      if (!status.ok()) actor.sink->Refuse(status);
      pending_.pop_front();
      pending_rows_ -= group_rows_;
    }
    unrolls_->Finish(finished_);
    finished_.clear();
    if (!rows_.empty()) {
      SIBYL_RETURN_IF_ERROR(Act());
      batches_counter_.Increment();
      batch_rows_.Observe(static_cast<double>(rows_.size()));
      seconds_counter_.Increment(absl::ToDoubleSeconds(absl::Now() - begin));
    }
    if (starved && rows_.empty()) {
      const absl::Time waiting = absl::Now();
      unrolls_->WaitForRelease();
      starved_seconds_.Increment(absl::ToDoubleSeconds(absl::Now() - waiting));
    }
  }
  return absl::OkStatus();
}

}  // namespace sibyl::learner
