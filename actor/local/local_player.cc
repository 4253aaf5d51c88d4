#include "actor/local/local_player.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/columns.h"
#include "common/status_macros.h"
#include "policy/observation_tensor.h"
#include "policy/weights.h"

namespace sibyl::actor {

absl::StatusOr<std::unique_ptr<LocalPlayer>> LocalPlayer::Make(
    const v1::LocalWelcome& welcome, const EnvironmentGroups* environments) {
  SIBYL_ASSIGN_OR_RETURN(auto policy, MakePolicy(welcome.policy(), environments->front()->spec()));
  if (welcome.policy().precision() == v1::PRECISION_BFLOAT16) policy->UseBfloat16();
  return std::unique_ptr<LocalPlayer>(new LocalPlayer(welcome, environments, std::move(policy)));
}

LocalPlayer::LocalPlayer(const v1::LocalWelcome& welcome, const EnvironmentGroups* environments,
                         std::shared_ptr<Policy> policy)
    : player_(welcome.actor(), environments),
      packer_(welcome.actor().codec()),
      policy_(std::move(policy)),
      rows_(welcome.actor().environments()),
      first_(torch::empty({1, rows_}, torch::kBool)),
      states_(torch::zeros({rows_, policy_->state_size()})),
      sampler_(SamplingSeed(welcome.actor().run_seed(), welcome.actor().lease().slot(),
                            welcome.actor().episodes().begin())) {
  for (const auto& array : environments->front()->spec().observation()) {
    observations_.push_back(torch::empty(BatchedShape(array, {1, rows_}), ToScalarType(array.dtype())));
  }
}

absl::Status LocalPlayer::TakeWeights(const v1::Weights& weights) {
  SIBYL_RETURN_IF_ERROR(
      DecodePolicy(absl::StrCat("weights of version ", weights.version()), weights.safetensors(), *policy_));
  version_ = weights.version();
  return absl::OkStatus();
}

void LocalPlayer::Show(v1::StepBatch* step) {
  packer_.Pack(player_, step);
  const char* from = player_.observations().data();
  for (int64_t row = 0; row < rows_; ++row) {
    first_.data_ptr<bool>()[row] = (step->flags()[row] & kFirst) != 0;
    for (torch::Tensor& array : observations_) {
      const size_t bytes = array.nbytes() / rows_;
      std::memcpy(static_cast<char*>(array.data_ptr()) + row * bytes, from, bytes);
      from += bytes;
    }
  }
}

absl::Status LocalPlayer::Begin(v1::UnrollBatch* batch) {
  batch->Clear();
  batch->set_sequence(batches_++);
  batch->set_state(states_.data_ptr(), states_.nbytes());
  if (batches_ > 1) return absl::OkStatus();
  v1::StepBatch* step = batch->add_steps();
  SIBYL_RETURN_IF_ERROR(player_.Start(0, step));
  Show(step);
  return absl::OkStatus();
}

absl::Status LocalPlayer::Step(v1::UnrollBatch* batch) {
  const absl::Time begin = absl::Now();
  v1::ActionBatch actions;
  actions.set_sequence(steps_++);
  if (const absl::Status status = sampler_.Draw(*policy_, observations_, first_, states_, &sample_); !status.ok()) {
    return absl::InternalError(absl::StrCat(status.message(), "; the weights are of version ", version_));
  }
  states_ = sample_.states.contiguous();
  actions.set_action(sample_.action);
  batch->mutable_log_prob()->append(reinterpret_cast<const char*>(sample_.log_prob.data()),
                                    sample_.log_prob.size() * sizeof(float));
  batch->mutable_value()->append(static_cast<const char*>(sample_.value.data_ptr()), sample_.value.nbytes());
  batch->mutable_action()->append(actions.action());
  AppendTo(batch->mutable_version(), version_);
  inference_seconds_ += absl::ToDoubleSeconds(absl::Now() - begin);
  v1::StepBatch* step = batch->add_steps();
  SIBYL_RETURN_IF_ERROR(player_.Step(actions, step));
  Show(step);
  return absl::OkStatus();
}

}  // namespace sibyl::actor
