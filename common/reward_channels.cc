#include "common/reward_channels.h"

#include <algorithm>
#include <cmath>

namespace sibyl {
namespace {

double WorthOf(const v1::RewardConfig& config, double coefficient, const CaptionWorth& caption) {
  if (caption.reward == 0) return 0;
  const double reward =
      config.intrinsic_ceiling() > 0 ? std::min(caption.reward, config.intrinsic_ceiling()) : caption.reward;
  return coefficient * reward /
         std::pow(static_cast<double>(std::max<uint32_t>(caption.count, 1)), config.count_exponent());
}

double CaptionPays(const v1::RewardConfig& config, double coefficient, double gamma, const Payment& payment) {
  const double before = WorthOf(config, coefficient, payment.before);
  const double after = WorthOf(config, coefficient, payment.after);
  switch (config.shaping()) {
    case v1::SHAPING_POTENTIAL:
      return (payment.terminated ? 0 : gamma * after) - before;
    case v1::SHAPING_DELTA:
      return before - after;
    default:
      return config.credit() == v1::CREDIT_ONI ? before : after;
  }
}

double NoveltyPays(const v1::RewardConfig& config, double coefficient, double, const Payment& payment) {
  if (payment.observation_count == 0) return 0;
  return coefficient / std::pow(static_cast<double>(payment.observation_count), config.novelty().count_exponent());
}

struct ChannelRow {
  const char* name;
  double (*first)(const v1::RewardConfig& config);
  double (*last)(const v1::RewardConfig& config);
  double (*pays)(const v1::RewardConfig& config, double coefficient, double gamma, const Payment& payment);
};
constexpr ChannelRow kChannels[kChannelCount] = {
    {"caption", [](const v1::RewardConfig& config) { return config.intrinsic_coefficient(); },
     [](const v1::RewardConfig& config) { return config.final_intrinsic_coefficient(); }, CaptionPays},
    {"novelty", [](const v1::RewardConfig& config) { return config.novelty().coefficient(); },
     [](const v1::RewardConfig& config) { return config.novelty().final_coefficient(); }, NoveltyPays},
};

}  // namespace

const char* ChannelName(Channel channel) { return kChannels[channel].name; }

ChannelCoefficients CoefficientsAt(const v1::RewardConfig& config, double progress) {
  ChannelCoefficients coefficients;
  for (int i = 0; i < kChannelCount; ++i) {
    const double first = kChannels[i].first(config), last = kChannels[i].last(config);
    coefficients[i] = first + (last - first) * std::clamp(progress, 0.0, 1.0);
  }
  return coefficients;
}

std::vector<Channel> ChannelsInUse(const v1::RewardConfig& config) {
  std::vector<Channel> channels;
  for (int i = 0; i < kChannelCount; ++i) {
    if (kChannels[i].first(config) > 0 || kChannels[i].last(config) > 0) channels.push_back(static_cast<Channel>(i));
  }
  return channels;
}

bool CountsObservations(const v1::RewardConfig& config) {
  return config.novelty().coefficient() > 0 || config.novelty().final_coefficient() > 0;
}

MixedReward MixReward(const v1::RewardConfig& config, const ChannelCoefficients& coefficients, double gamma,
                      const Payment& payment) {
  const double clip = config.extrinsic_clip();
  MixedReward mixed;
  mixed.extrinsic =
      config.extrinsic_coefficient() * std::clamp(config.extrinsic_scale() * payment.extrinsic, -clip, clip);
  for (int i = 0; i < kChannelCount; ++i) {
    mixed.channels[i] = kChannels[i].pays(config, coefficients[i], gamma, payment);
    mixed.intrinsic += mixed.channels[i];
  }
  return mixed;
}

}  // namespace sibyl
