#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/reward_channels.h"
#include "learner/experience/caption_table.h"
#include "learner/experience/unroll_pool.h"
#include "learner/training/training_batch.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/state.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl::learner {

// A training batch and what it was made from. Tensors are on the CPU unless said otherwise.
struct Batch {
  TrainingBatch training;                               // on the learner's device; its reward is the mixed one
  torch::Tensor extrinsic_reward;                       // [T, B] float, raw
  torch::Tensor intrinsic_reward;                       // [T, B] float, coefficient and count included
  torch::Tensor policy_version;                         // [T, B] int64, of the behaviour policy
  torch::Tensor seen_caption, paid_caption;             // [T+1, B], [T, B] int64: caption ids (hashes, as bit patterns)
  torch::Tensor seen_count, paid_count;                 // [T+1, B], [T, B] int64
  torch::Tensor episode;                                // [T+1, B] int64
  torch::Tensor slot, environment;                      // [B] int64
  torch::Tensor observation_count;                      // [T, B] int64; undefined where observations are not counted
  v1::RewardSums sums;                                  // over this batch
  std::array<double, kChannelCount> channel_sums = {};  // of the absolute reward that each channel paid
  double mean_policy_lag = 0;                           // optimiser steps
  double mean_reward_age = 0;                           // environment steps, over scored captions
  int64_t dropped_steps = 0;                            // too old to train on
};

struct BatchSettings {
  v1::LearnerConfig learner;
  v1::RewardConfig reward;
  v1::EnvironmentSpec spec;
  int64_t state_size = 0;
  int value_heads = 1;                                // V
  std::array<int, kChannelCount> channel_heads = {};  // of each channel, below V (ChannelHeads)
  torch::Device device = torch::kCPU;
};

// Copies unrolls into a batch and mixes their rewards (MixReward) under the newest scores, all of one moment, and these
// coefficients.
// `version` is the trainer's, `step` the run's environment steps.
Batch MakeBatch(const BatchSettings& settings, const Unrolls& unrolls, const CaptionTable& captions,
                const ChannelCoefficients& coefficients, uint64_t version, uint64_t step);

// Writes everything above to a safetensors file, observation arrays as "observation/<name>". What training saw can so
// be checked, or trained on again.
absl::Status WriteBatch(const std::string& path, const Batch& batch, const v1::EnvironmentSpec& spec);

}  // namespace sibyl::learner
