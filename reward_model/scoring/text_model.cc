#include "reward_model/scoring/text_model.h"

#include "absl/strings/str_cat.h"

namespace sibyl::reward_model {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;

// The reference's widths behind the convolutions.
std::vector<int64_t> Hidden(v1::RewardModelKind kind) {
  if (kind == v1::REWARD_MODEL_KIND_RANKING) return {128, 256, 512};
  return {128, 512, 512};
}

}  // namespace

torch::Tensor LabelLoss(const torch::Tensor& score, const torch::Tensor& target, const torch::Tensor& weight) {
  return torch::binary_cross_entropy_with_logits(score, target, weight);
}

torch::Tensor BalancingWeights(const torch::Tensor& target, double good_share, double limit) {
  const double good = std::min(0.5 / good_share, limit), bad = std::min(0.5 / (1 - good_share), limit);
  return target * good + (1 - target) * bad;
}

torch::Tensor EnsembleOf(const torch::Tensor& scores, v1::EnsembleScore which, double bound) {
  switch (which) {
    case v1::ENSEMBLE_SCORE_MINIMUM:
      return scores.amin(0);
    case v1::ENSEMBLE_SCORE_LOWER_BOUND:
      return scores.mean(0) - bound * Disagreement(scores);
    default:
      return scores.mean(0);
  }
}

torch::Tensor Disagreement(const torch::Tensor& scores) { return scores.std(0, /*unbiased=*/false); }

Moments WeightedMoments(const torch::Tensor& scores, const torch::Tensor& weight) {
  const torch::Tensor share = (weight / weight.sum()).to(torch::kFloat64);
  const torch::Tensor mean = (scores * share).sum(1, /*keepdim=*/true);
  const torch::Tensor deviation = ((scores - mean).square() * share).sum(1).sqrt().clamp_min(1e-6);
  return {mean.squeeze(1).to(torch::kFloat32), deviation.to(torch::kFloat32)};
}

TextModel::TextModel(v1::RewardModelKind kind, const v1::RewardTrainingConfig& config, uint64_t seed)
    : learning_rate_(config.learning_rate()) {
  torch::manual_seed(seed);
  for (uint32_t i = 0; i < config.ensemble(); ++i) {
    Member member;
    member.network =
        std::make_shared<TextNetwork>(TextNetworkShape{config.text_length(), Hidden(kind), config.dropout()});
    member.parameters = member.network->parameters();
    for (const torch::Tensor& parameter : member.parameters) {
      member.first_moments.push_back(torch::zeros_like(parameter).detach());
      member.second_moments.push_back(torch::zeros_like(parameter).detach());
    }
    member.steps = torch::zeros({});
    members_.push_back(std::move(member));
  }
}

double TextModel::Train(int network, const torch::Tensor& texts, const torch::Tensor& first,
                        const torch::Tensor& second, const torch::Tensor& target, const torch::Tensor& weight) {
  Member& member = members_[network];
  member.network->train();
  const torch::Tensor scores = member.network->Forward(texts);
  torch::Tensor score = scores.index_select(0, first);
  if (second.defined()) score = score - scores.index_select(0, second);
  const torch::Tensor loss = LabelLoss(score, target, weight);
  const std::vector<torch::Tensor> gradients = torch::autograd::grad({loss}, member.parameters);
  torch::NoGradGuard no_grad;
  member.steps += 1;
  const std::vector<torch::Tensor> steps(member.parameters.size(), member.steps);
  at::_fused_adam_(member.parameters, gradients, member.first_moments, member.second_moments, {}, steps, learning_rate_,
                   kBeta1, kBeta2, /*weight_decay=*/0, kEpsilon, /*amsgrad=*/false, /*maximize=*/false);
  return loss.item<double>();
}

torch::Tensor TextModel::Score(const torch::Tensor& texts) {
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> scores;
  for (Member& member : members_) {
    member.network->eval();
    scores.push_back(member.network->Forward(texts));
  }
  return torch::stack(scores);
}

int64_t TextModel::steps() const {
  double steps = 0;
  for (const Member& member : members_) steps += member.steps.item<double>();
  return static_cast<int64_t>(steps);
}

NamedTensors TextModel::tensors() const {
  NamedTensors tensors;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    tensors.emplace_back(absl::StrCat("network", i, "/steps"), member.steps);
    size_t p = 0;
    for (const auto& parameter : member.network->named_parameters()) {
      const auto name = [&](const char* what) { return absl::StrCat("network", i, "/", what, "/", parameter.key()); };
      tensors.emplace_back(name("weight"), parameter.value().detach());
      tensors.emplace_back(name("adam/first"), member.first_moments[p]);
      tensors.emplace_back(name("adam/second"), member.second_moments[p]);
      ++p;
    }
  }
  return tensors;
}

}  // namespace sibyl::reward_model
