#include "absl/strings/match.h"
#include "common/action_spec.h"
#include "common/feedback.h"
#include "common/status_macros.h"
#include "policy/minigrid_conv_gru.h"
#include "policy/mlp.h"
#include "policy/nethack_oni.h"
#include "policy/policy.h"
#include "policy/value_heads.h"

namespace sibyl {
namespace {

constexpr double kInputClip = 5;

}  // namespace

absl::StatusOr<std::shared_ptr<Policy>> MakePolicy(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec,
                                                   const v1::RewardConfig& reward) {
  const int64_t values = ValueCount(config, reward);
  SIBYL_RETURN_IF_ERROR(CheckActionSpec(spec));
  switch (config.kind()) {
    case v1::POLICY_KIND_MINIGRID_CONV_GRU:
      return MakeMinigridConvGru(config, spec, values);
    case v1::POLICY_KIND_NETHACK_ONI:
      return MakeNetHackOni(config, spec, values);
    case v1::POLICY_KIND_MLP:
      return MakeMlp(config, spec, values);
    default:
      if (absl::StartsWith(spec.name(), "minigrid/")) return MakeMinigridConvGru(config, spec, values);
      if (absl::StartsWith(spec.name(), "nethack/")) return MakeNetHackOni(config, spec, values);
      return MakeMlp(config, spec, values);
  }
}

Policy::Policy(const v1::EnvironmentSpec& spec)
    : distribution_(spec), feedback_(FeedbackNumbers(spec) > 0 ? spec.observation_size() - 1 : -1) {}

PolicyOutput Policy::Output(const torch::Tensor& features, torch::Tensor states, const Observations& observations) {
  PolicyOutput output;
  output.action = distribution_.Masked(actor_(features), observations);
  output.critic = critic_(features);
  output.value = critic_->code().Decode(output.critic.detach());
  output.states = std::move(states);
  return output;
}

torch::Tensor Policy::WithFeedback(const torch::Tensor& features, const Observations& observations) const {
  if (feedback_ < 0) return features;
  const torch::Tensor& told = observations[feedback_];
  return torch::cat({features, told.reshape({features.size(0), -1}).to(features.scalar_type())}, 1);
}

torch::Tensor Policy::NormalisedNumbers(const Observations& observations) {
  const torch::Tensor numbers = InputNumbers(observations);
  return input_statistics_.is_empty() ? numbers : input_statistics_->Normalise(numbers).clamp(-kInputClip, kInputClip);
}

void InitOrthogonal(torch::nn::Module& layer, double gain) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : layer.named_parameters()) {
    if (parameter.key() == "weight") {
      torch::nn::init::orthogonal_(parameter.value(), gain);
    } else {
      parameter.value().zero_();
    }
  }
}

}  // namespace sibyl
