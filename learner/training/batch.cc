#include "learner/training/batch.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/reward_channels.h"
#include "common/tensor_spec.h"
#include "policy/observation_tensor.h"
#include "policy/weights.h"

namespace sibyl::learner {

Batch MakeBatch(const BatchSettings& settings, const Unrolls& unrolls, const CaptionTable& captions,
                const ChannelCoefficients& coefficients, uint64_t version, uint64_t step) {
  const int64_t T = settings.learner.unroll_length(), B = static_cast<int64_t>(unrolls.size()),
                V = settings.value_heads;
  const v1::EnvironmentSpec& spec = settings.spec;
  const size_t observation_bytes = ObservationBytes(spec);
  const v1::RewardConfig& mix = settings.reward;
  Batch batch;
  TrainingBatch& training = batch.training;
  const auto int64s = torch::TensorOptions(torch::kInt64);
  const auto floats = torch::TensorOptions(torch::kFloat32);
  const auto bools = torch::TensorOptions(torch::kBool);
  for (const auto& array : spec.observation()) {
    training.observation.push_back(torch::empty(BatchedShape(array, {T + 1, B}), ToScalarType(array.dtype())));
  }
  training.first = torch::empty({T + 1, B}, bools);
  training.state = torch::empty({B, settings.state_size}, floats);
  const ActionDistribution distribution(spec);
  const size_t action_bytes = distribution.action_bytes();
  training.action = torch::empty({T, B, distribution.numbers()}, distribution.is_box() ? floats : int64s);
  const size_t action_stride = training.action.nbytes() / (T * B);
  training.behaviour_log_prob = torch::empty({T, B}, floats);
  training.behaviour_value = torch::empty({T, B, V}, floats);
  training.reward = torch::empty({T, B, V}, floats);
  training.terminated = torch::empty({T, B}, bools);
  training.truncated = torch::empty({T, B}, bools);
  training.valid = torch::empty({T, B}, bools);
  batch.extrinsic_reward = torch::empty({T, B}, floats);
  batch.intrinsic_reward = torch::empty({T, B}, floats);
  batch.policy_version = torch::empty({T, B}, int64s);
  batch.seen_caption = torch::empty({T + 1, B}, int64s);
  batch.paid_caption = torch::empty({T, B}, int64s);
  batch.seen_count = torch::empty({T + 1, B}, int64s);
  batch.paid_count = torch::empty({T, B}, int64s);
  batch.episode = torch::empty({T + 1, B}, int64s);
  batch.slot = torch::empty({B}, int64s);
  batch.environment = torch::empty({B}, int64s);
  const bool counted = CountsObservations(mix);
  if (counted) batch.observation_count = torch::empty({T, B}, int64s);

  const bool shaped = mix.shaping() != v1::SHAPING_NONE, oni_credit = mix.credit() == v1::CREDIT_ONI;
  std::vector<int32_t> seen((T + 1) * B), paid(T * B);
  for (int64_t b = 0; b < B; ++b) {
    const Unroll& unroll = *unrolls[b];
    for (int64_t t = 0; t <= T; ++t) seen[t * B + b] = unroll.seen_caption[t];
    for (int64_t t = 0; t < T; ++t) paid[t * B + b] = unroll.paid_caption[t];
  }
  // The caption that pays each step is looked up, and where rewards are differences the other one too.
  const bool paid_before = !shaped && oni_credit;
  const absl::Span<const int32_t> rows = absl::MakeConstSpan(paid_before ? seen : paid).first(T * B);
  std::vector<CaptionReward> caption_rewards(rows.size()), rewards_before(shaped ? rows.size() : 0);
  captions.Rewards(rows, step, caption_rewards.data());
  if (shaped) captions.Rewards(absl::MakeConstSpan(seen).first(T * B), step, rewards_before.data());
  captions.Ids(seen, reinterpret_cast<uint64_t*>(batch.seen_caption.data_ptr<int64_t>()));
  captions.Ids(paid, reinterpret_cast<uint64_t*>(batch.paid_caption.data_ptr<int64_t>()));

  struct Final {
    int64_t step, unroll;
    const std::string* observation;
  };
  std::vector<Final> finals;
  double lag = 0, age = 0;
  for (int64_t b = 0; b < B; ++b) {
    const Unroll& unroll = *unrolls[b];
    batch.slot.data_ptr<int64_t>()[b] = unroll.slot;
    batch.environment.data_ptr<int64_t>()[b] = unroll.environment;
    if (settings.state_size > 0) {
      std::memcpy(training.state.data_ptr<float>() + b * settings.state_size, unroll.state.data(),
                  settings.state_size * sizeof(float));
    }
    for (const Unroll::Final& final : unroll.finals) finals.push_back({final.step, b, &final.observation});
    for (int64_t t = 0; t <= T; ++t) {
      const int64_t at = t * B + b;
      size_t offset = t * observation_bytes;
      for (int i = 0; i < spec.observation_size(); ++i) {
        const size_t bytes = Bytes(spec.observation(i));
        std::memcpy(static_cast<char*>(training.observation[i].data_ptr()) + at * bytes, &unroll.observation[offset],
                    bytes);
        offset += bytes;
      }
      training.first.data_ptr<bool>()[at] = unroll.first[t] != 0;
      batch.seen_count.data_ptr<int64_t>()[at] = unroll.seen_count[t];
      batch.episode.data_ptr<int64_t>()[at] = static_cast<int64_t>(unroll.episode[t]);
      if (t == T) break;
      const CaptionReward& caption = caption_rewards[at];
      Payment payment;
      payment.extrinsic = unroll.reward[t];
      payment.terminated = unroll.terminated[t] != 0;
      if (paid_before) {
        payment.before = {caption.reward, unroll.seen_count[t]};
      } else {
        payment.after = {caption.reward, unroll.paid_count[t]};
        if (shaped) payment.before = {rewards_before[at].reward, unroll.seen_count[t]};
      }
      if (counted) {
        payment.observation_count = unroll.observation_count[t];
        batch.observation_count.data_ptr<int64_t>()[at] = unroll.observation_count[t];
      }
      const MixedReward mixed = MixReward(mix, coefficients, settings.learner.intrinsic_gamma(), payment);
      const double extrinsic = mixed.extrinsic, intrinsic = mixed.intrinsic;
      for (int i = 0; i < kChannelCount; ++i) batch.channel_sums[i] += std::abs(mixed.channels[i]);
      distribution.Decode(&unroll.action[t * action_bytes],
                          static_cast<char*>(training.action.data_ptr()) + at * action_stride);
      training.behaviour_log_prob.data_ptr<float>()[at] = unroll.log_prob[t];
      std::copy_n(unroll.value.begin() + t * V, V, training.behaviour_value.data_ptr<float>() + at * V);
      float* reward = training.reward.data_ptr<float>() + at * V;
      std::array<double, 1 + kChannelCount> of_head = {extrinsic};
      for (int i = 0; i < kChannelCount; ++i) of_head[settings.channel_heads[i]] += mixed.channels[i];
      for (int64_t head = 0; head < V; ++head) reward[head] = static_cast<float>(of_head[head]);
      training.terminated.data_ptr<bool>()[at] = unroll.terminated[t] != 0;
      training.truncated.data_ptr<bool>()[at] = unroll.truncated[t] != 0;
      const uint64_t step_lag = version - std::min(version, unroll.policy_version[t]);
      const bool valid = step_lag < settings.learner.max_policy_lag();
      training.valid.data_ptr<bool>()[at] = valid;
      batch.dropped_steps += !valid;
      lag += static_cast<double>(step_lag);
      batch.extrinsic_reward.data_ptr<float>()[at] = unroll.reward[t];
      batch.intrinsic_reward.data_ptr<float>()[at] = static_cast<float>(intrinsic);
      batch.policy_version.data_ptr<int64_t>()[at] = static_cast<int64_t>(unroll.policy_version[t]);
      batch.paid_count.data_ptr<int64_t>()[at] = unroll.paid_count[t];
      v1::RewardSums& sums = batch.sums;
      sums.set_captioned_steps(sums.captioned_steps() + (rows[at] != 0));
      sums.set_scored_steps(sums.scored_steps() + caption.scored);
      sums.set_extrinsic(sums.extrinsic() + std::abs(extrinsic));
      sums.set_intrinsic(sums.intrinsic() + std::abs(intrinsic));
      age += static_cast<double>(caption.age);
    }
  }
  batch.sums.set_steps(T * B);
  batch.mean_policy_lag = lag / static_cast<double>(T * B);
  batch.mean_reward_age = batch.sums.scored_steps() == 0 ? 0 : age / static_cast<double>(batch.sums.scored_steps());

  const int64_t F = static_cast<int64_t>(finals.size());
  training.final_step = torch::empty({F}, int64s);
  training.final_unroll = torch::empty({F}, int64s);
  for (const auto& array : spec.observation()) {
    training.final_observation.push_back(torch::empty(BatchedShape(array, {F}), ToScalarType(array.dtype())));
  }
  for (int64_t f = 0; f < F; ++f) {
    training.final_step.data_ptr<int64_t>()[f] = finals[f].step;
    training.final_unroll.data_ptr<int64_t>()[f] = finals[f].unroll;
    size_t offset = 0;
    for (int i = 0; i < spec.observation_size(); ++i) {
      const size_t bytes = Bytes(spec.observation(i));
      std::memcpy(static_cast<char*>(training.final_observation[i].data_ptr()) + f * bytes,
                  finals[f].observation->data() + offset, bytes);
      offset += bytes;
    }
  }
  if (!settings.device.is_cpu()) {
    for (auto* list : {&training.observation, &training.final_observation}) {
      for (torch::Tensor& tensor : *list) tensor = tensor.to(settings.device);
    }
    for (torch::Tensor* tensor : {&training.first, &training.state, &training.action, &training.behaviour_log_prob,
                                  &training.behaviour_value, &training.reward, &training.terminated,
                                  &training.truncated, &training.valid, &training.final_step, &training.final_unroll}) {
      *tensor = tensor->to(settings.device);
    }
  }
  return batch;
}

absl::Status WriteBatch(const std::string& path, const Batch& batch, const v1::EnvironmentSpec& spec) {
  NamedTensors tensors;
  const auto add = [&](const std::string& name, const torch::Tensor& tensor) {
    tensors.emplace_back(name, tensor.to(torch::kCPU).contiguous());
  };
  const TrainingBatch& training = batch.training;
  for (int i = 0; i < spec.observation_size(); ++i) {
    add("observation/" + spec.observation(i).name(), training.observation[i]);
    add("final_observation/" + spec.observation(i).name(), training.final_observation[i]);
  }
  add("first", training.first);
  add("state", training.state);
  add("action", training.action);
  add("behaviour_log_prob", training.behaviour_log_prob);
  add("behaviour_value", training.behaviour_value);
  add("reward", training.reward);
  add("terminated", training.terminated);
  add("truncated", training.truncated);
  add("valid", training.valid);
  add("final_step", training.final_step);
  add("final_unroll", training.final_unroll);
  add("extrinsic_reward", batch.extrinsic_reward);
  add("intrinsic_reward", batch.intrinsic_reward);
  add("policy_version", batch.policy_version);
  add("seen_caption", batch.seen_caption);
  add("paid_caption", batch.paid_caption);
  add("seen_count", batch.seen_count);
  add("paid_count", batch.paid_count);
  if (batch.observation_count.defined()) add("observation_count", batch.observation_count);
  add("episode", batch.episode);
  add("slot", batch.slot);
  add("environment", batch.environment);
  return WriteTensors(path, tensors, {});
}

}  // namespace sibyl::learner
