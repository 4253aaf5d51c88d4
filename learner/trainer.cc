#include "learner/trainer.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "learner/loss.h"
#include "learner/vtrace.h"
#include "policy/weights.h"

namespace sibyl::learner {
namespace {

// Adam's decay rates (Kingma & Ba 2015, section 2).
constexpr double kBeta1 = 0.9, kBeta2 = 0.999;

}  // namespace

Trainer::Trainer(const v1::LearnerConfig& config, std::shared_ptr<Policy> policy)
    : config_(config), policy_(std::move(policy)), parameters_(policy_->parameters()) {
  for (const torch::Tensor& parameter : parameters_) {
    first_moments_.push_back(torch::zeros_like(parameter, torch::MemoryFormat::Contiguous).detach());
    second_moments_.push_back(torch::zeros_like(parameter, torch::MemoryFormat::Contiguous).detach());
  }
}

torch::Tensor Trainer::FinalValues(const TrainingBatch& batch, const torch::Tensor& states) {
  torch::Tensor values = torch::zeros_like(batch.reward);
  const int64_t finals = batch.final_step.size(0);
  if (finals == 0) return values;
  torch::NoGradGuard no_grad;
  Observations observations;
  for (const torch::Tensor& array : batch.final_observation) observations.push_back(array.unsqueeze(0));
  const torch::Tensor state = states.index({batch.final_step, batch.final_unroll});
  const torch::Tensor first = torch::zeros({1, finals}, batch.first.options());
  const torch::Tensor value = policy_->Forward(observations, first, state).value[0];
  values.index_put_({batch.final_step, batch.final_unroll}, value);
  return values;
}

absl::StatusOr<TrainingStats> Trainer::Pass(const TrainingBatch& batch) {
  const int64_t T = batch.reward.size(0);
  const PolicyOutput output = policy_->Forward(batch.observation, batch.first, batch.state);
  const torch::Tensor log_probs = output.logits.slice(0, 0, T).log_softmax(-1);
  const torch::Tensor log_prob = log_probs.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1);

  VtraceInputs vtrace;
  vtrace.ratio = ImportanceRatio(log_prob.detach(), batch.behaviour_log_prob);
  vtrace.reward = batch.reward;
  vtrace.terminated = batch.terminated;
  vtrace.truncated = batch.truncated;
  vtrace.value = output.value.detach();
  vtrace.final_value = FinalValues(batch, output.states.detach());
  vtrace.gamma = config_.gamma();
  vtrace.rho_bar = config_.vtrace_rho();
  vtrace.c_bar = config_.vtrace_c();
  const VtraceOutputs targets = Vtrace(vtrace);

  LossInputs inputs;
  inputs.log_prob = log_prob;
  inputs.entropy = -(log_probs.exp() * log_probs).sum(-1);
  inputs.value = output.value.slice(0, 0, T);
  inputs.behaviour_log_prob = batch.behaviour_log_prob;
  inputs.behaviour_value = batch.behaviour_value;
  inputs.target = targets.target;
  inputs.advantage = targets.advantage;
  inputs.valid = batch.valid;
  const Losses losses = ComputeLosses(inputs, config_);

  const std::vector<torch::Tensor> gradients =
      torch::autograd::grad({losses.total}, parameters_, {}, /*retain_graph=*/false, /*create_graph=*/false,
                            /*allow_unused=*/true);
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> squares;
  for (const torch::Tensor& gradient : gradients) {
    if (gradient.defined()) squares.push_back(gradient.square().sum());
  }
  const torch::Tensor norm = torch::stack(squares).sum().sqrt();
  // One copy to the host for everything that is looked at.
  const torch::Tensor shown =
      torch::stack({losses.policy.detach(), losses.value.detach(), losses.entropy.detach(), norm, losses.clip_fraction,
                    losses.mean_ratio, losses.mean_value, losses.explained_variance})
          .to(torch::kCPU, torch::kFloat64);
  const double* figures = shown.data_ptr<double>();
  const TrainingStats stats = {figures[0], figures[1], figures[2], figures[3],
                               figures[4], figures[5], figures[6], figures[7]};
  for (const auto& [name, value] : {std::pair("the policy loss", stats.policy_loss),
                                    {"the value loss", stats.value_loss},
                                    {"the entropy", stats.entropy},
                                    {"the gradient's norm", stats.gradient_norm}}) {
    if (!std::isfinite(value)) {
      return absl::InternalError(absl::StrCat(name, " is ", value, " at policy version ", version_,
                                              "; the weights were not changed. Lower learner.learning_rate, or look "
                                              "at the rewards"));
    }
  }

  // Adam (Kingma & Ba 2015, algorithm 1).
  ++version_;
  const double scale = std::min(1.0, config_.max_gradient_norm() / (stats.gradient_norm + 1e-6));
  const double correction1 = 1 - std::pow(kBeta1, double(version_)),
               correction2 = 1 - std::pow(kBeta2, double(version_));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const torch::Tensor gradient = gradients[i] * scale;
    first_moments_[i].lerp_(gradient, 1 - kBeta1);
    second_moments_[i].mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    const torch::Tensor denominator = (second_moments_[i] / correction2).sqrt_().add_(config_.adam_epsilon());
    parameters_[i].addcdiv_(first_moments_[i], denominator, -config_.learning_rate() / correction1);
  }
  return stats;
}

absl::StatusOr<TrainingStats> Trainer::Update(const TrainingBatch& batch) {
  TrainingStats mean;
  const double share = 1.0 / config_.epochs();
  for (uint32_t epoch = 0; epoch < config_.epochs(); ++epoch) {
    SIBYL_ASSIGN_OR_RETURN(const TrainingStats stats, Pass(batch));
    mean.policy_loss += share * stats.policy_loss;
    mean.value_loss += share * stats.value_loss;
    mean.entropy += share * stats.entropy;
    mean.gradient_norm += share * stats.gradient_norm;
    mean.clip_fraction += share * stats.clip_fraction;
    mean.mean_ratio += share * stats.mean_ratio;
    mean.mean_value += share * stats.mean_value;
    mean.explained_variance += share * stats.explained_variance;
  }
  return mean;
}

std::function<absl::Status(const std::string& path)> Trainer::Snapshot() const {
  torch::NoGradGuard no_grad;
  auto tensors = std::make_shared<NamedTensors>();
  size_t i = 0;
  for (const auto& parameter : policy_->named_parameters()) {
    const auto copy = [](const torch::Tensor& tensor) {
      return tensor.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true).contiguous();
    };
    tensors->emplace_back("policy/" + parameter.key(), copy(parameter.value()));
    tensors->emplace_back("adam/first/" + parameter.key(), copy(first_moments_[i]));
    tensors->emplace_back("adam/second/" + parameter.key(), copy(second_moments_[i]));
    ++i;
  }
  return [tensors, version = version_](const std::string& path) {
    return WriteTensors(path, *tensors, {{"policy_version", absl::StrCat(version)}});
  };
}

absl::Status Trainer::Load(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const TensorFile file, ReadTensors(path));
  NamedTensors into;
  size_t i = 0;
  for (const auto& parameter : policy_->named_parameters()) {
    into.emplace_back("policy/" + parameter.key(), parameter.value());
    into.emplace_back("adam/first/" + parameter.key(), first_moments_[i]);
    into.emplace_back("adam/second/" + parameter.key(), second_moments_[i]);
    ++i;
  }
  SIBYL_RETURN_IF_ERROR(CopyTensors(file, into, /*all=*/true));
  const auto version = file.metadata.find("policy_version");
  if (version == file.metadata.end() || !absl::SimpleAtoi(version->second, &version_)) {
    return absl::DataLossError(absl::StrCat(path, " does not say its policy_version"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl::learner
