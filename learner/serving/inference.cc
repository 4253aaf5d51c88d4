#include "learner/serving/inference.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "policy/observation_tensor.h"

namespace sibyl::learner {
namespace {

// A group whose step has come is held for a group that waits for unrolls no longer than this.
constexpr absl::Duration kMostHold = absl::Milliseconds(50);

}  // namespace

Inference::Inference(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, torch::Device device,
                     uint64_t seed, PolicyStore* policies, const ExperienceBooks& books, Clock* clock,
                     Heartbeats* heartbeats, Metrics* metrics)
    : ActorLoop("inference", books, clock, heartbeats,
                metrics->Counter("sibyl_learner_inference_seconds_total",
                                 "Time spent decoding steps, running the policy and answering."),
                metrics->Counter("sibyl_learner_inference_waits_for_unrolls_seconds_total",
                                 "Time that inference had nothing to do but steps that waited for training to "
                                 "release unrolls.")),
      environments_(static_cast<int>(experiment.actor().environments())),
      groups_(static_cast<int>(experiment.actor().groups())),
      group_rows_(environments_ / groups_),
      max_rows_(static_cast<int>(experiment.learner().inference_batch())),
      wait_(absl::Milliseconds(experiment.learner().inference_wait_ms())),
      spec_(spec),
      feedback_(experiment, spec),
      policy_spec_(feedback_.PolicySpec()),
      action_bytes_(ActionBytes(spec.action())),
      device_(device),
      policies_(policies),
      states_(environments_, policies->Get().policy->state_size(), device),
      staged_(policy_spec_.observation_size()),
      sampler_(seed),
      batches_counter_(metrics->Counter("sibyl_learner_inference_batches_total", "Inference batches.")),
      batch_rows_(metrics->Histogram("sibyl_learner_inference_batch_rows", "Rows of an inference batch.",
                                     {1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096})) {
  size_t offset = 0;
  for (const v1::TensorSpec& array : policy_spec_.observation()) {
    arrays_.push_back({offset, Bytes(array)});
    offset += Bytes(array);
  }
}

std::unique_ptr<InferenceActor> Inference::MakeActor(const v1::SlotLease& lease, std::shared_ptr<ActionSink> sink) {
  return std::unique_ptr<InferenceActor>(
      new InferenceActor{{lease,
                          std::move(sink),
                          {spec_, &feedback_, /*told_by_actor=*/false, books_, lease.slot(), groups_, group_rows_}},
                         states_.Take()});
}

void Inference::OnForget(InferenceActor& actor) {
  std::erase_if(turns_, [&actor](const Turn& turn) { return turn.actor == &actor; });
  states_.Release(actor.states);
}

size_t Inference::EventsForABatch() const {
  if (!turns_.empty()) return 0;
  // While one group of each actor is stepped, the others wait: no more than those can come.
  const int can_come = static_cast<int>(actors()) * (groups_ - (groups_ > 1 ? 1 : 0)) - requests();
  return std::clamp(can_come, 1, std::max(1, (max_rows_ + group_rows_ - 1) / group_rows_));
}

absl::Status Inference::OnMessage(InferenceActor& actor, const v1::StepBatch& batch) {
  SIBYL_RETURN_IF_ERROR(actor.writer.Check(batch));
  books_.steps->AddBytes(batch.ByteSizeLong());
  textless_.clear();
  SIBYL_RETURN_IF_ERROR(actor.writer.Write(batch, &textless_));
  RequestTexts(*actor.sink, &textless_);
  if (const int lacking = actor.writer.Lacking(static_cast<int>(batch.group())); lacking > 0) {
    Unrolls unrolls = RequestUnrolls(actor, batch.group(), lacking);
    if (unrolls.empty()) return absl::OkStatus();
    actor.writer.Begin(static_cast<int>(batch.group()), std::move(unrolls));
  }
  turns_.push_back({&actor, batch.group(), batch.sequence()});
  return absl::OkStatus();
}

void Inference::OnUnrolls(InferenceActor& actor, uint32_t group, Unrolls unrolls) {
  actor.writer.Begin(static_cast<int>(group), std::move(unrolls));
  turns_.push_back({&actor, group, actor.writer.written(static_cast<int>(group)) - 1});
}

void Inference::Stage(const Turn& turn, int64_t first_row) {
  const size_t rows = first_row + group_rows_;
  staged_first_.resize(std::max(staged_first_.size(), rows));
  staged_state_.resize(std::max(staged_state_.size(), rows));
  for (size_t i = 0; i < arrays_.size(); ++i) {
    staged_[i].resize(std::max(staged_[i].size(), rows * arrays_[i].bytes));
  }
  for (int row = 0; row < group_rows_; ++row) {
    const int environment = static_cast<int>(turn.group) * group_rows_ + row;
    const char* observation = turn.actor->writer.Observation(environment);
    for (size_t i = 0; i < arrays_.size(); ++i) {
      const Array& array = arrays_[i];
      std::memcpy(&staged_[i][(first_row + row) * array.bytes], observation + array.offset, array.bytes);
    }
    staged_first_[first_row + row] = static_cast<char>(turn.actor->writer.First(environment));
    staged_state_[first_row + row] = states_.FirstRow(turn.actor->states) + environment;
  }
}

absl::Status Inference::Act() {
  size_t count = 0;
  int64_t rows = 0;
  for (; count < turns_.size() && rows < max_rows_; ++count, rows += group_rows_) Stage(turns_[count], rows);
  if (count == 0) return absl::OkStatus();

  const c10::InferenceMode no_gradients;
  Observations observations;
  for (int i = 0; i < policy_spec_.observation_size(); ++i) {
    observations.push_back(ViewAsTensor(policy_spec_.observation(i), staged_[i].data(), {1, rows}).to(device_));
  }
  const torch::Tensor first = torch::from_blob(staged_first_.data(), {1, rows}, torch::kBool).to(device_);
  const torch::Tensor index = torch::from_blob(staged_state_.data(), {rows}, torch::kInt64).to(device_);
  const torch::Tensor before = states_.table().index_select(0, index);
  const PolicyStore::Published published = policies_->Get();
  if (const absl::Status status = sampler_.Draw(*published.policy, observations, first, before, &sample_);
      !status.ok()) {
    return absl::InternalError(
        absl::StrCat(status.message(), "; the weights are of version ", published.policy_version));
  }
  const int64_t state_size = before.size(1), heads = sample_.value.size(1);
  if (state_size > 0) states_.table().index_copy_(0, index, sample_.states);
  const torch::Tensor states = before.to(torch::kCPU).contiguous();

  int64_t row = 0;
  for (size_t turn = 0; turn < count; ++turn) {
    const auto& [actor, group, sequence] = turns_[turn];
    v1::ActionBatch batch;
    batch.set_group(group);
    batch.set_sequence(sequence);
    batch.set_action(&sample_.action[row * action_bytes_], group_rows_ * action_bytes_);
    batch.set_policy_version(published.policy_version);
    for (int i = 0; i < group_rows_; ++i, ++row) {
      actor->writer.WriteDecision(
          static_cast<int>(group) * group_rows_ + i,
          {&sample_.action[row * action_bytes_], sample_.log_prob[row], sample_.value.data_ptr<float>() + row * heads,
           published.policy_version, states.data_ptr<float>() + row * state_size});
    }
    actor->sink->SendActions(std::move(batch));
  }
  turns_.erase(turns_.begin(), turns_.begin() + static_cast<std::ptrdiff_t>(count));
  batches_counter_.Increment();
  batch_rows_.Observe(static_cast<double>(rows));
  return absl::OkStatus();
}

absl::Duration Inference::HoldFor(absl::Time now) {
  if (requests() == 0 || turns_.empty() || turns_.size() == actors() * static_cast<size_t>(groups_)) {
    held_since_ = absl::InfiniteFuture();
    return absl::ZeroDuration();
  }
  if (held_since_ == absl::InfiniteFuture()) held_since_ = now;
  return std::max(absl::ZeroDuration(), held_since_ + kMostHold - now);
}

Inference::Wait Inference::NextWait(absl::Time now) {
  if (const absl::Duration hold = HoldFor(now); hold > absl::ZeroDuration()) {
    return {actors() * groups_ - turns_.size(), hold, hold};
  }
  return {EventsForABatch(), wait_, kIdle};
}

absl::Status Inference::AfterEvents() {
  if (HoldFor(clock_->Now()) > absl::ZeroDuration()) return absl::OkStatus();
  SIBYL_RETURN_IF_ERROR(Act());
  held_since_ = absl::InfiniteFuture();
  return absl::OkStatus();
}

}  // namespace sibyl::learner
