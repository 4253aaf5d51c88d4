#include "actor/local/local_player.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/status_macros.h"
#include "common/step_flags.h"
#include "policy/observation_tensor.h"
#include "policy/weights.h"

namespace sibyl::actor {

namespace {

// The policy is told its last rewards, as the learner's policy is.
Feedback FeedbackOf(const v1::LocalWelcome& welcome, const v1::EnvironmentSpec& environment) {
  v1::Experiment experiment;
  *experiment.mutable_policy() = welcome.policy();
  *experiment.mutable_reward() = welcome.reward();
  experiment.mutable_learner()->set_intrinsic_gamma(welcome.intrinsic_gamma());
  return Feedback(experiment, environment);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalPlayer>> LocalPlayer::Make(const v1::LocalWelcome& welcome,
                                                               const EnvironmentGroups* environments) {
  SIBYL_ASSIGN_OR_RETURN(
      auto policy,
      MakePolicy(welcome.policy(), FeedbackOf(welcome, environments->front()->spec()).PolicySpec(), welcome.reward()));
  if (welcome.policy().precision() == v1::PRECISION_BFLOAT16) policy->UseBfloat16();
  return std::unique_ptr<LocalPlayer>(new LocalPlayer(welcome, environments, std::move(policy)));
}

LocalPlayer::LocalPlayer(const v1::LocalWelcome& welcome, const EnvironmentGroups* environments,
                         std::shared_ptr<Policy> policy)
    : player_(welcome.actor(), environments),
      packer_(welcome.actor().codec()),
      policy_(std::move(policy)),
      rows_(welcome.actor().environments()),
      feedback_(FeedbackOf(welcome, environments->front()->spec())),
      action_bytes_(ActionBytes(environments->front()->spec().action())),
      before_(rows_),
      first_(torch::empty({1, rows_}, torch::kBool)),
      states_(torch::zeros({rows_, policy_->state_size()})),
      sampler_(SamplingSeed(welcome.actor().run_seed(), welcome.actor().lease().slot(),
                            welcome.actor().episodes().begin())) {
  const v1::EnvironmentSpec policy_spec = feedback_.PolicySpec();
  for (const auto& array : policy_spec.observation()) {
    observations_.push_back(torch::zeros(BatchedShape(array, {1, rows_}), ToScalarType(array.dtype())));
  }
}

absl::Status LocalPlayer::TakeWeights(const v1::Weights& weights) {
  SIBYL_RETURN_IF_ERROR(
      DecodePolicy(absl::StrCat("weights of version ", weights.policy_version()), weights.safetensors(), *policy_));
  policy_version_ = weights.policy_version();
  return absl::OkStatus();
}

void LocalPlayer::TakeCaptionRewards(const v1::BatchRequest& request) {
  if (request.forget_captions()) caption_rewards_.clear();
  for (const v1::CaptionReward& caption : request.captions()) {
    if (caption.reward() == 0) {
      caption_rewards_.erase(caption.id());
    } else {
      caption_rewards_[caption.id()] = caption.reward();
    }
  }
}

void LocalPlayer::TellRewards(v1::StepBatch* step) {
  const size_t R = feedback_.reward_numbers();
  if (R == 0) return;
  const auto worth = [&](const Shown& caption) {
    const auto found = caption_rewards_.find(caption.id);
    return CaptionWorth{found == caption_rewards_.end() ? 0 : found->second, caption.count};
  };
  std::vector<float> rewards(R);
  for (int64_t row = 0; row < rows_; ++row) {
    Payment payment;
    payment.extrinsic = EntryOf<float>(step->reward(), row);
    payment.before = worth(before_[row]);
    payment.after = worth({EntryOf<uint64_t>(step->caption_id(), row), EntryOf<uint32_t>(step->caption_count(), row)});
    payment.terminated = (step->flags()[row] & kStepTerminated) != 0;
    if (!step->observation_count().empty()) {
      payment.observation_count = EntryOf<uint32_t>(step->observation_count(), row);
    }
    feedback_.Rewards(payment, rewards.data());
    for (const float reward : rewards) AppendTo(step->mutable_last_rewards(), reward);
  }
}

void LocalPlayer::Show(const std::string* actions, v1::StepBatch* step) {
  packer_.Pack(player_, step);
  if (actions != nullptr) TellRewards(step);
  std::vector<float> rewards(feedback_.reward_numbers());
  const size_t arrays = observations_.size() - (feedback_.numbers() > 0 ? 1 : 0);
  const char* from = player_.observations().data();
  for (int64_t row = 0, starts = 0; row < rows_; ++row) {
    const bool first = (step->flags()[row] & kStepFirst) != 0;
    first_.data_ptr<bool>()[row] = first;
    before_[row] = {EntryOf<uint64_t>(step->caption_id(), row), EntryOf<uint32_t>(step->caption_count(), row)};
    if (first) {
      const uint64_t caption = EntryOf<uint64_t>(step->first_caption_id(), starts++);
      before_[row] = {caption, caption != 0 ? 1u : 0u};
    }
    for (size_t i = 0; i < arrays; ++i) {
      const size_t bytes = observations_[i].nbytes() / rows_;
      std::memcpy(static_cast<char*>(observations_[i].data_ptr()) + row * bytes, from, bytes);
      from += bytes;
    }
    if (feedback_.numbers() == 0) continue;
    char* told = static_cast<char*>(observations_.back().data_ptr()) + row * feedback_.bytes();
    if (first) {
      std::memset(told, 0, feedback_.bytes());
      continue;
    }
    if (!rewards.empty()) {
      std::memcpy(rewards.data(), step->last_rewards().data() + row * rewards.size() * sizeof(float),
                  rewards.size() * sizeof(float));
    }
    feedback_.Write(&(*actions)[row * action_bytes_], rewards.data(), told);
  }
}

absl::Status LocalPlayer::Begin(v1::UnrollBatch* batch) {
  batch->Clear();
  batch->set_sequence(batches_++);
  batch->set_state(states_.data_ptr(), states_.nbytes());
  if (batches_ > 1) return absl::OkStatus();
  v1::StepBatch* step = batch->add_steps();
  SIBYL_RETURN_IF_ERROR(player_.Start(0, step));
  Show(nullptr, step);
  return absl::OkStatus();
}

absl::Status LocalPlayer::Step(v1::UnrollBatch* batch) {
  const absl::Time begin = absl::Now();
  v1::ActionBatch actions;
  actions.set_sequence(steps_++);
  if (const absl::Status status = sampler_.Draw(*policy_, observations_, first_, states_, &sample_); !status.ok()) {
    return absl::InternalError(absl::StrCat(status.message(), "; the weights are of version ", policy_version_));
  }
  states_ = sample_.states.contiguous();
  actions.set_action(sample_.action);
  batch->mutable_log_prob()->append(reinterpret_cast<const char*>(sample_.log_prob.data()),
                                    sample_.log_prob.size() * sizeof(float));
  batch->mutable_value()->append(static_cast<const char*>(sample_.value.data_ptr()), sample_.value.nbytes());
  batch->mutable_action()->append(actions.action());
  AppendTo(batch->mutable_policy_version(), policy_version_);
  inference_seconds_ += absl::ToDoubleSeconds(absl::Now() - begin);
  v1::StepBatch* step = batch->add_steps();
  SIBYL_RETURN_IF_ERROR(player_.Step(actions, step));
  Show(&actions.action(), step);
  return absl::OkStatus();
}

}  // namespace sibyl::actor
