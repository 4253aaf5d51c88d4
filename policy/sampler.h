#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/random.h"
#include "policy/policy.h"
#include "policy/torch.h"

namespace sibyl {

// What a policy chose for B observations.
struct Sample {
  std::string action;           // [B] actions, as ActionSpec lays them out
  std::vector<float> log_prob;  // [B] of the action
  torch::Tensor value;          // [B, V] float, on the CPU, contiguous
  torch::Tensor states;         // [B, H] float: recurrent state after the step, on the policy's device
};

// Chooses actions: runs the policy, draws from its distribution, and checks that the numbers are finite. The learner's
// inference and local actors both choose through this class. The same seed, weights and observations give the same
// actions. One thread.
class Sampler {
 public:
  explicit Sampler(uint64_t seed) : random_(seed) {}

  // One step of B environments. `observations` [1, B, ...], `first` [1, B] and `state` [B, H] are on the policy's
  // device. Overwrites `sample`. Internal: the policy's log-probabilities or values are not finite.
  absl::Status Draw(Policy& policy, const Observations& observations, const torch::Tensor& first,
                    const torch::Tensor& state, Sample* sample);

 private:
  Random random_;
};

// The seed for the sampling of an actor whose first episode number on this stream is `first_episode`. No other stream
// of the run has the same.
inline uint64_t SamplingSeed(uint64_t run_seed, uint32_t slot, uint64_t first_episode) {
  return Mix64(EpisodeSeed(run_seed, slot, ~uint32_t{0}, first_episode));
}

}  // namespace sibyl
