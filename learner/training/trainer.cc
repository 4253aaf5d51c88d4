#include "learner/training/trainer.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "learner/training/loss.h"
#include "learner/training/minibatches.h"
#include "learner/training/vtrace.h"

namespace sibyl::learner {
namespace {

// Adam's decay rates (Kingma & Ba 2015, algorithm 1).
constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
// All that TrainingStats has.
constexpr double TrainingStats::*kFigures[] = {
    &TrainingStats::policy_loss,         &TrainingStats::value_loss,         &TrainingStats::entropy,
    &TrainingStats::gradient_norm,       &TrainingStats::clip_fraction,      &TrainingStats::mean_ratio,
    &TrainingStats::mean_value,          &TrainingStats::explained_variance, &TrainingStats::learning_rate,
    &TrainingStats::entropy_coefficient,
};
static_assert(sizeof kFigures / sizeof *kFigures == sizeof(TrainingStats) / sizeof(double));

// What a pass takes means of, the targets of each head and the gradient apart.
constexpr int64_t kMeans = 9;

// V-trace of one of the values.
VtraceOutputs TargetsOf(int64_t head, const TrainingBatch& batch, const torch::Tensor& ratio,
                        const torch::Tensor& value, const torch::Tensor& final_value, const v1::LearnerConfig& config) {
  VtraceInputs vtrace;
  vtrace.ratio = ratio;
  vtrace.reward = batch.reward.select(-1, head);
  vtrace.terminated = batch.terminated;
  vtrace.truncated = batch.truncated;
  vtrace.value = value.select(-1, head);
  vtrace.final_value = final_value.select(-1, head);
  vtrace.gamma = head == 0 ? config.gamma() : config.intrinsic_gamma();
  vtrace.rho_bar = config.vtrace_rho();
  vtrace.c_bar = config.vtrace_c();
  return Vtrace(vtrace);
}

}  // namespace

Trainer::Trainer(const v1::LearnerConfig& config, std::shared_ptr<Policy> policy, Collective* collective)
    : config_(config),
      policy_(std::move(policy)),
      collective_(collective),
      team_(policy_->parameters()[0].is_cpu() ? std::max<int>(config.training_threads(), 1) : 1, "training-slice",
            [] { at::set_num_threads(1); }) {
  for (const auto& parameter : policy_->named_parameters()) {
    if (!parameter.value().requires_grad()) continue;
    names_.push_back(parameter.key());
    parameters_.push_back(parameter.value());
    first_moments_.push_back(torch::zeros_like(parameter.value()).detach());
    second_moments_.push_back(torch::zeros_like(parameter.value()).detach());
  }
}

Trainer::Slice Trainer::SliceOf(const TrainingBatch& batch, int64_t begin, int64_t end) {
  Slice slice;
  slice.begin = begin;
  slice.final_step = batch.final_step;
  slice.final_unroll = batch.final_unroll;
  slice.final_observation = batch.final_observation;
  if (begin == 0 && end == batch.reward.size(1)) {
    slice.observation = batch.observation;
    slice.first = batch.first;
    slice.state = batch.state;
    slice.action = batch.action;
    return slice;
  }
  for (const torch::Tensor& array : batch.observation) slice.observation.push_back(array.slice(1, begin, end));
  slice.first = batch.first.slice(1, begin, end);
  slice.state = batch.state.slice(0, begin, end);
  slice.action = batch.action.slice(1, begin, end);
  const torch::Tensor mine = batch.final_unroll.ge(begin).logical_and(batch.final_unroll.lt(end)).nonzero().squeeze(1);
  slice.final_step = batch.final_step.index_select(0, mine);
  slice.final_unroll = batch.final_unroll.index_select(0, mine) - begin;
  for (torch::Tensor& array : slice.final_observation) array = array.index_select(0, mine);
  return slice;
}

void Trainer::Forward(Slice& slice) {
  const int64_t T = slice.action.size(0);
  const PolicyOutput output = policy_->Forward(slice.observation, slice.first, slice.state);
  const ActionDistribution::Densities densities =
      policy_->distribution().At(output.action.slice(0, 0, T), slice.action);
  slice.log_prob = densities.log_prob;
  slice.entropy = densities.entropy;
  slice.critic = output.critic;
  slice.value = output.value;

  torch::NoGradGuard no_grad;
  slice.final_value = torch::zeros_like(slice.value.slice(0, 0, T));
  const int64_t finals = slice.final_step.size(0);
  if (finals == 0) return;
  Observations observations;
  for (const torch::Tensor& array : slice.final_observation) observations.push_back(array.unsqueeze(0));
  const torch::Tensor state = output.states.detach().index({slice.final_step, slice.final_unroll});
  const torch::Tensor first = torch::zeros({1, finals}, slice.first.options());
  const torch::Tensor value = policy_->Forward(observations, first, state).value[0];
  slice.final_value.index_put_({slice.final_step, slice.final_unroll}, value);
}

void Trainer::Backward(Slice& slice, const torch::Tensor& by_log_prob, const torch::Tensor& by_entropy,
                       const torch::Tensor& by_critic) {
  const int64_t begin = slice.begin, end = begin + slice.action.size(1);
  // The value of o_T only bootstraps.
  const torch::Tensor critic = slice.critic.slice(0, 0, slice.action.size(0));
  slice.gradients = torch::autograd::grad(
      {slice.log_prob, slice.entropy, critic}, parameters_,
      {by_log_prob.slice(1, begin, end), by_entropy.slice(1, begin, end), by_critic.slice(1, begin, end)},
      /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    torch::Tensor& gradient = slice.gradients[i];
    if (!gradient.defined()) gradient = torch::zeros_like(parameters_[i]);
    // The fused optimiser goes through memory, whatever the strides.
    if (gradient.strides() != parameters_[i].strides()) {
      gradient = torch::empty_like(parameters_[i], parameters_[i].options().requires_grad(false)).copy_(gradient);
    }
  }
}

absl::StatusOr<TrainingStats> Trainer::Pass(TrainingBatch* batch, double progress) {
  const int64_t B = batch != nullptr ? batch->reward.size(1) : 0, V = policy_->critic()->heads();
  const int64_t members = std::min<int64_t>(team_.size(), B);
  std::vector<Slice> slices(members);
  const auto gather = [&](torch::Tensor Slice::*part) {
    std::vector<torch::Tensor> parts;
    for (const Slice& slice : slices) parts.push_back((slice.*part).detach());
    return parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  };
  // The loss as a function of what the network said, so that only the network's own part is shared out.
  LossInputs inputs;
  torch::Tensor sums = torch::zeros({3}, torch::kFloat64);
  // [T, B] of the proximal policy's probabilities to the behaviour policy's.
  torch::Tensor ratio;
  // Its sum over the ranks, and their number.
  torch::Tensor progresses = torch::tensor({progress, 1.0}, torch::kFloat64);
  if (batch != nullptr) {
    const int64_t T = batch->reward.size(0);
    team_.Run([&](int member) {
      if (member >= members) return;
      slices[member] = SliceOf(*batch, B * member / members, B * (member + 1) / members);
      Forward(slices[member]);
    });
    const torch::Tensor value = gather(&Slice::value);
    inputs.log_prob = gather(&Slice::log_prob).requires_grad_();
    inputs.entropy = gather(&Slice::entropy).requires_grad_();
    const torch::Tensor final_value = gather(&Slice::final_value);
    inputs.critic = gather(&Slice::critic).slice(0, 0, T).requires_grad_();
    inputs.code = policy_->critic()->code();
    inputs.value = value.slice(0, 0, T);
    if (!batch->proximal_log_prob.defined()) batch->proximal_log_prob = inputs.log_prob.detach();
    inputs.proximal_log_prob = batch->proximal_log_prob;
    inputs.behaviour_value = batch->behaviour_value;
    inputs.valid = batch->valid;
    ratio = ImportanceRatio(batch->proximal_log_prob, batch->behaviour_log_prob);
    std::vector<torch::Tensor> targets, advantages;
    for (int64_t head = 0; head < V; ++head) {
      const VtraceOutputs of_head = TargetsOf(head, *batch, ratio, value, final_value, config_);
      targets.push_back(of_head.target);
      advantages.push_back(of_head.advantage);
    }
    inputs.target = torch::stack(targets, -1);
    inputs.advantage = torch::stack(advantages, -1).sum(-1);
    sums = LossSums(inputs);
  }
  if (collective_ != nullptr) SIBYL_RETURN_IF_ERROR(collective_->Sum({sums, progresses}));
  const double done = std::clamp(progresses[0].item<double>() / progresses[1].item<double>(), 0.0, 1.0);
  const double learning_rate = std::lerp(config_.learning_rate(), config_.final_learning_rate(), done);
  const double entropy_coefficient =
      std::lerp(config_.entropy_coefficient(), config_.final_entropy_coefficient(), done);

  std::vector<torch::Tensor> gradients;
  torch::Tensor means = torch::zeros({kMeans + 2 * V}, parameters_[0].options().requires_grad(false));
  // Of the numbers in the observations, where they are normalised.
  torch::Tensor input_means;
  if (batch != nullptr) {
    const Losses losses = ComputeLosses(inputs, sums, entropy_coefficient, config_);
    const std::vector<torch::Tensor> by_output =
        torch::autograd::grad({losses.total}, {inputs.log_prob, inputs.entropy, inputs.critic});
    team_.Run([&](int member) {
      if (member < members) Backward(slices[member], by_output[0], by_output[1], by_output[2]);
    });
    gradients = std::move(slices[0].gradients);
    for (int64_t member = 1; member < members; ++member) at::_foreach_add_(gradients, slices[member].gradients);
    const torch::Tensor mean_ratio =
        torch::where(batch->valid, ratio, 0).sum() / sums[0].clamp_min(1).to(ratio.options());
    means = torch::stack({losses.policy.detach(), losses.value.detach(), losses.entropy.detach(), losses.clip_fraction,
                          mean_ratio, losses.mean_value, losses.mean_target, losses.mean_square_target,
                          losses.mean_square_error});
    means = torch::cat({means, losses.head_targets, losses.head_square_targets});
  } else {
    for (const torch::Tensor& parameter : parameters_) gradients.push_back(torch::zeros_like(parameter).detach());
  }
  torch::NoGradGuard no_grad;
  if (!policy_->input_statistics().is_empty()) input_means = InputMeans(batch, sums[0]);
  if (collective_ != nullptr) {
    std::vector<torch::Tensor> added = gradients;
    added.push_back(means);
    if (input_means.defined()) added.push_back(input_means);
    SIBYL_RETURN_IF_ERROR(collective_->Sum(added));
  }
  const torch::Tensor norm = torch::stack(at::_foreach_norm(gradients)).norm();
  // One copy to the host for everything that is looked at.
  const torch::Tensor shown = torch::cat({means, norm.unsqueeze(0)}).to(torch::kCPU, torch::kFloat64);
  const double* figures = shown.data_ptr<double>();
  TrainingStats stats;
  stats.learning_rate = learning_rate;
  stats.entropy_coefficient = entropy_coefficient;
  stats.policy_loss = figures[0];
  stats.value_loss = figures[1];
  stats.entropy = figures[2];
  stats.clip_fraction = figures[3];
  stats.mean_ratio = figures[4];
  stats.mean_value = figures[5];
  stats.explained_variance = ExplainedVariance(figures[6], figures[7], figures[8]);
  stats.gradient_norm = figures[kMeans + 2 * V];
  for (const auto& [name, value] : {std::pair("the policy loss", stats.policy_loss),
                                    {"the value loss", stats.value_loss},
                                    {"the entropy", stats.entropy},
                                    {"the gradient's norm", stats.gradient_norm}}) {
    if (!std::isfinite(value)) {
      return absl::InternalError(absl::StrCat(name, " is ", value, " at policy version ", policy_version_,
                                              "; the weights were not changed. Lower learner.learning_rate, or look "
                                              "at the rewards"));
    }
  }

  ++policy_version_;
  const auto scalar = parameters_[0].options().requires_grad(false);
  const std::vector<torch::Tensor> steps(parameters_.size(),
                                         torch::full({}, static_cast<double>(policy_version_), scalar));
  // Gradients are divided by this.
  const double excess = std::max(1.0, (stats.gradient_norm + 1e-6) / config_.max_gradient_norm());
  at::_fused_adam_(parameters_, gradients, first_moments_, second_moments_, {}, steps, learning_rate, kBeta1, kBeta2,
                   /*weight_decay=*/0, config_.adam_epsilon(), /*amsgrad=*/false, /*maximize=*/false,
                   torch::full({}, excess, scalar));
  if (const double steps = sums[0].item<double>(); steps > 0) {
    policy_->critic()->FollowReturns(shown.slice(0, kMeans, kMeans + V), shown.slice(0, kMeans + V, kMeans + 2 * V));
    if (input_means.defined()) policy_->input_statistics()->Follow(input_means[0], input_means[1], steps);
  }
  return stats;
}

torch::Tensor Trainer::InputMeans(const TrainingBatch* batch, const torch::Tensor& steps) const {
  const int64_t numbers = policy_->input_statistics()->mean().size(0);
  const auto floats = parameters_[0].options().requires_grad(false);
  if (batch == nullptr) return torch::zeros({2, numbers}, floats);
  Observations observations;
  for (const torch::Tensor& array : batch->observation) observations.push_back(array.slice(0, 0, -1));
  const torch::Tensor valid = batch->valid.reshape({-1, 1});
  const torch::Tensor x = torch::where(valid, policy_->InputNumbers(observations).to(torch::kFloat64), 0);
  return (torch::stack({x.sum(0), x.square().sum(0)}) / steps.clamp_min(1)).to(floats);
}

absl::StatusOr<TrainingStats> Trainer::Update(const TrainingBatch* batch, double progress) {
  TrainingStats mean;
  const double slice = 1.0 / (config_.epochs() * config_.minibatches());
  std::vector<TrainingBatch> parts;
  if (batch != nullptr) {
    parts = config_.minibatches() > 1 ? Split(*batch, config_.minibatches(), policy_version_) : std::vector{*batch};
  }
  for (uint32_t epoch = 0; epoch < config_.epochs(); ++epoch) {
    for (uint32_t part = 0; part < config_.minibatches(); ++part) {
      SIBYL_ASSIGN_OR_RETURN(const TrainingStats stats, Pass(parts.empty() ? nullptr : &parts[part], progress));
      for (double TrainingStats::*figure : kFigures) mean.*figure += slice * (stats.*figure);
    }
  }
  return mean;
}

absl::Status Trainer::Synchronise() {
  std::vector<torch::Tensor> tensors = policy_->parameters();
  tensors.insert(tensors.end(), first_moments_.begin(), first_moments_.end());
  tensors.insert(tensors.end(), second_moments_.begin(), second_moments_.end());
  SIBYL_RETURN_IF_ERROR(collective_->Broadcast(tensors));
  torch::Tensor version = torch::tensor(static_cast<int64_t>(policy_version_));
  SIBYL_RETURN_IF_ERROR(collective_->Broadcast({version}));
  policy_version_ = static_cast<uint64_t>(version.item<int64_t>());
  return absl::OkStatus();
}

NamedTensors Trainer::State() const {
  NamedTensors state;
  for (const auto& parameter : policy_->named_parameters()) {
    state.emplace_back("policy/" + parameter.key(), parameter.value());
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    state.emplace_back("adam/first/" + names_[i], first_moments_[i]);
    state.emplace_back("adam/second/" + names_[i], second_moments_[i]);
  }
  return state;
}

std::function<absl::StatusOr<std::string>()> Trainer::Snapshot() const {
  torch::NoGradGuard no_grad;
  auto tensors = std::make_shared<NamedTensors>();
  for (const auto& [name, tensor] : State()) {
    const torch::Tensor copy = tensor.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true);
    tensors->emplace_back(name, copy.contiguous());
  }
  return [tensors, version = policy_version_] {
    return EncodeTensors("the weights", *tensors, {{"policy_version", absl::StrCat(version)}});
  };
}

absl::Status Trainer::Load(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const TensorFile file, ReadTensors(path));
  SIBYL_RETURN_IF_ERROR(CopyTensors(file, State(), /*all=*/true));
  const auto version = file.metadata.find("policy_version");
  if (version == file.metadata.end() || !absl::SimpleAtoi(version->second, &policy_version_)) {
    return absl::DataLossError(absl::StrCat(path, " does not say its policy_version"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl::learner
