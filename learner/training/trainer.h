#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/training/collective.h"
#include "learner/training/thread_team.h"
#include "learner/training/training_batch.h"
#include "policy/policy.h"
#include "policy/torch.h"
#include "policy/weights.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

// Of one Update, means over its passes.
struct TrainingStats {
  double policy_loss = 0;
  double value_loss = 0;          // before its coefficient
  double entropy = 0;             // nats
  double gradient_norm = 0;       // before clipping
  double clip_fraction = 0;       // share of steps outside PPO's clip range around the proximal policy
  double mean_ratio = 0;          // of the proximal policy's probability of an action to the behaviour policy's
  double mean_value = 0;          // of V
  double explained_variance = 0;  // of the value targets by V, at most 1
  double learning_rate = 0;
  double entropy_coefficient = 0;
};

// Trains a policy: V-trace with clipped PPO, Adam. On a CPU, config.training_threads() threads take a slice of the
// unrolls each; the losses are the whole batch's. No clock, no randomness: on a CPU, the same batches give the same
// weights bit for bit with the same number of threads, also across Snapshot and Load. One caller at a time.
class Trainer {
 public:
  // `collective`: the learners that train this policy together, all with the same weights; nullptr: this one alone. It
  // outlives the trainer.
  Trainer(const v1::LearnerConfig& config, std::shared_ptr<Policy> policy, Collective* collective = nullptr);

  // Uses the batch config.epochs times, in config.minibatches parts that unrolls are drawn into. The policy that first
  // meets a part is its proximal policy: V-trace corrects from the behaviour policy to it, later epochs are clipped
  // around it. `progress` is the share of the run that is done, 0 to 1: learning rate and entropy coefficient follow
  // it. With others, the batch is the union of all ranks', each of which calls this or UpdateWithoutBatch; at least one
  // has a batch, and the mean of their progress counts. An error names what is not finite, and the weights are then
  // those before the pass; or it is the collective's.
  absl::StatusOr<TrainingStats> Update(const TrainingBatch& batch, double progress = 0) {
    return Update(&batch, progress);
  }
  // This rank has no experience; it takes the others' step.
  absl::StatusOr<TrainingStats> UpdateWithoutBatch(double progress = 0) { return Update(nullptr, progress); }

  // Gives all ranks rank 0's weights, moments and version.
  absl::Status Synchronise();

  const Policy& policy() const { return *policy_; }
  // Optimiser steps so far.
  uint64_t policy_version() const { return policy_version_; }

  // A copy of the weights, Adam's moments and the version, as a function that gives the bytes of a safetensors file.
  // Any thread may call the function.
  std::function<absl::StatusOr<std::string>()> Snapshot() const;
  // Goes on from such a file. FailedPrecondition: another network's, naming the first tensor that differs.
  absl::Status Load(const std::string& path);

 private:
  // b unrolls of a batch, from `begin` on: what the network sees of them and what it says.
  struct Slice {
    int64_t begin = 0;
    Observations observation, final_observation;
    torch::Tensor first, state, action, final_step, final_unroll;
    torch::Tensor log_prob, entropy;       // [T, b] of the actions; gradient flows
    torch::Tensor critic;                  // [T+1, b, V, K]; gradient flows
    torch::Tensor value;                   // [T+1, b, V]
    torch::Tensor final_value;             // [T, b, V] of truncated steps' final observations, 0 elsewhere
    std::vector<torch::Tensor> gradients;  // of the loss, as parameters_
  };

  // `batch`: nullptr where there is none.
  absl::StatusOr<TrainingStats> Update(const TrainingBatch* batch, double progress);
  // Sets batch->proximal_log_prob where that is undefined.
  absl::StatusOr<TrainingStats> Pass(TrainingBatch* batch, double progress);
  static Slice SliceOf(const TrainingBatch& batch, int64_t begin, int64_t end);
  void Forward(Slice& slice);
  // `by_...`: the loss's derivatives by what the network said of the whole batch, [T, B, ...].
  void Backward(Slice& slice, const torch::Tensor& by_log_prob, const torch::Tensor& by_entropy,
                const torch::Tensor& by_critic);
  // This batch's part of the mean and the mean square of the numbers in its observations, [2, N] float. `batch`:
  // nullptr where there is none; `steps` []: all valid steps, the other ranks' included.
  torch::Tensor InputMeans(const TrainingBatch* batch, const torch::Tensor& steps) const;
  // Everything that training changes, under its name in a file.
  NamedTensors State() const;

  const v1::LearnerConfig config_;
  const std::shared_ptr<Policy> policy_;
  Collective* const collective_;
  // Those of policy_->parameters() that gradients change, in that order.
  std::vector<torch::Tensor> parameters_, first_moments_, second_moments_;
  std::vector<std::string> names_;
  uint64_t policy_version_ = 0;
  ThreadTeam team_;
};

}  // namespace sibyl::learner
