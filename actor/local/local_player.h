#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "actor/player.h"
#include "common/feedback.h"
#include "policy/policy.h"
#include "policy/sampler.h"
#include "policy/torch.h"
#include "sibyl/v1/unroll.pb.h"

namespace sibyl::actor {

// Plays all environments of one slot with its own copy of the policy, over the life of one stream, and writes their
// unrolls. One thread, on the CPU.
class LocalPlayer {
 public:
  // Makes a player with the network that the welcome names. It has no weights before TakeWeights. `environments`
  // outlive it. Errors of MakePolicy.
  static absl::StatusOr<std::unique_ptr<LocalPlayer>> Make(const v1::LocalWelcome& welcome,
                                                           const EnvironmentGroups* environments);

  // Uses these weights from the next step on. FailedPrecondition or DataLoss: they are not this network's.
  absl::Status TakeWeights(const v1::Weights& weights);

  // Uses these caption rewards from the next step on, where the policy is told them.
  void TakeCaptionRewards(const v1::BatchRequest& request);

  // Begins the stream's next batch. The first batch resets every environment. Errors of Player::Start.
  absl::Status Begin(v1::UnrollBatch* batch);
  // Plays one step in every environment and adds it to the batch. A batch has unroll_length steps. Errors of
  // Player::Step. Internal: the policy's output is not finite.
  absl::Status Step(v1::UnrollBatch* batch);

  Player& player() { return player_; }
  uint64_t policy_version() const { return policy_version_; }
  // Time spent in the policy.
  double inference_seconds() const { return inference_seconds_; }

 private:
  LocalPlayer(const v1::LocalWelcome& welcome, const EnvironmentGroups* environments, std::shared_ptr<Policy> policy);

  // Packs what the player shows into the batch's last step, and lays it out for the policy. `actions`: what was played,
  // nullptr at the stream's start.
  void Show(const std::string* actions, v1::StepBatch* step);
  // Adds what the policy is told of each row's step to the batch, [E, R] floats.
  void TellRewards(v1::StepBatch* step);

  // A caption that a row showed.
  struct Shown {
    uint64_t id = 0;
    uint32_t count = 0;
  };

  Player player_;
  StepPacker packer_;
  const std::shared_ptr<Policy> policy_;
  const int64_t rows_;
  const Feedback feedback_;
  const size_t action_bytes_;
  absl::flat_hash_map<uint64_t, float> caption_rewards_;  // those that are not 0
  std::vector<Shown> before_;                             // by row: the newest observation's
  std::vector<torch::Tensor> observations_;               // by array of Feedback::PolicySpec: [1, E, ...]
  torch::Tensor first_;                                   // bool [1, E]
  torch::Tensor states_;                                  // [E, H], before the next step
  uint64_t policy_version_ = 0, batches_ = 0, steps_ = 0;
  Sampler sampler_;  // seeded by the run's seed, the slot and the first episode number
  Sample sample_;
  double inference_seconds_ = 0;
};

}  // namespace sibyl::actor
