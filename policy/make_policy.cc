#include "absl/strings/match.h"
#include "policy/minigrid_conv_gru.h"
#include "policy/mlp.h"
#include "policy/nethack_oni.h"
#include "policy/policy.h"

namespace sibyl {

absl::StatusOr<std::shared_ptr<Policy>> MakePolicy(v1::PolicyKind kind, const v1::EnvironmentSpec& spec) {
  switch (kind) {
    case v1::POLICY_KIND_MINIGRID_CONV_GRU:
      return MakeMinigridConvGru(spec);
    case v1::POLICY_KIND_NETHACK_ONI:
      return MakeNetHackOni(spec);
    case v1::POLICY_KIND_MLP:
      return MakeMlp(spec);
    default:
      if (absl::StartsWith(spec.name(), "minigrid/")) return MakeMinigridConvGru(spec);
      if (absl::StartsWith(spec.name(), "nethack/")) return MakeNetHackOni(spec);
      return MakeMlp(spec);
  }
}

void InitOrthogonal(torch::nn::Module& layer, double gain) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : layer.named_parameters()) {
    if (parameter.key() == "bias") {
      parameter.value().zero_();
    } else {
      torch::nn::init::orthogonal_(parameter.value(), gain);
    }
  }
}

}  // namespace sibyl
