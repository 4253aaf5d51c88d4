#include "learner/training/reward_mix.h"

#include <algorithm>
#include <cmath>

namespace sibyl::learner {
namespace {

double WorthOf(const v1::RewardConfig& config, const CaptionWorth& caption) {
  if (caption.reward == 0) return 0;
  const double reward =
      config.intrinsic_ceiling() > 0 ? std::min(caption.reward, config.intrinsic_ceiling()) : caption.reward;
  return config.intrinsic_coefficient() * reward /
         std::pow(static_cast<double>(std::max<uint32_t>(caption.count, 1)), config.count_exponent());
}

}  // namespace

MixedReward MixReward(const v1::RewardConfig& config, double gamma, const Payment& payment) {
  const double clip = config.extrinsic_clip();
  MixedReward mixed;
  mixed.extrinsic =
      config.extrinsic_coefficient() * std::clamp(config.extrinsic_scale() * payment.extrinsic, -clip, clip);
  const double before = WorthOf(config, payment.before), after = WorthOf(config, payment.after);
  switch (config.shaping()) {
    case v1::SHAPING_POTENTIAL:
      mixed.intrinsic = (payment.terminated ? 0 : gamma * after) - before;
      break;
    case v1::SHAPING_DELTA:
      mixed.intrinsic = before - after;
      break;
    default:
      mixed.intrinsic = config.credit() == v1::CREDIT_ONI ? before : after;
      break;
  }
  return mixed;
}

}  // namespace sibyl::learner
