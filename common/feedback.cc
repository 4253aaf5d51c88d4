#include "common/feedback.h"

#include <algorithm>
#include <cstring>

#include "common/action_spec.h"
#include "common/columns.h"
#include "common/tensor_spec.h"

namespace sibyl {

Feedback::Feedback(const v1::Experiment& experiment, const v1::EnvironmentSpec& environment)
    : environment_(environment),
      reward_(experiment.reward()),
      gamma_(experiment.learner().intrinsic_gamma()),
      tells_rewards_(experiment.policy().last_rewards()),
      channels_(ChannelsInUse(experiment.reward())),
      action_numbers_(!experiment.policy().last_action() ? 0
                      : environment.action().has_box()   ? ActionNumbers(environment.action())
                                                         : AllChoices(environment.action())) {}

bool Feedback::reads_captions() const {
  return tells_rewards_ && std::find(channels_.begin(), channels_.end(), kCaptionChannel) != channels_.end();
}

void Feedback::Rewards(const Payment& payment, float* rewards) const {
  if (!tells_rewards_) return;
  ChannelCoefficients ones;
  ones.fill(1);
  const MixedReward mixed = MixReward(reward_, ones, gamma_, payment);
  *rewards++ = static_cast<float>(
      std::clamp(reward_.extrinsic_scale() * payment.extrinsic, -reward_.extrinsic_clip(), reward_.extrinsic_clip()));
  for (const Channel channel : channels_) *rewards++ = static_cast<float>(mixed.channels[channel]);
}

void Feedback::Write(const char* action, const float* rewards, char* array) const {
  if (action_numbers_ > 0) {
    const v1::ActionSpec& spec = environment_.action();
    if (spec.has_box()) {
      std::memcpy(array, action, action_numbers_ * sizeof(float));
    } else {
      std::memset(array, 0, action_numbers_ * sizeof(float));
      const float one = 1;
      int begin = 0;
      for (int part = 0; part < spec.discrete().parts_size(); ++part) {
        std::memcpy(array + (begin + EntryOf<uint16_t>(action, part)) * sizeof one, &one, sizeof one);
        begin += spec.discrete().parts(part).choices_size();
      }
    }
    array += action_numbers_ * sizeof(float);
  }
  if (tells_rewards_) std::memcpy(array, rewards, reward_numbers() * sizeof(float));
}

v1::EnvironmentSpec Feedback::PolicySpec() const {
  v1::EnvironmentSpec spec = environment_;
  if (numbers() > 0) {
    *spec.add_observation() = MakeTensorSpec(kFeedbackArray, v1::DTYPE_FLOAT32, {static_cast<uint32_t>(numbers())});
  }
  return spec;
}

size_t FeedbackNumbers(const v1::EnvironmentSpec& policy_spec) {
  const int arrays = policy_spec.observation_size();
  return arrays > 0 && policy_spec.observation(arrays - 1).name() == kFeedbackArray
             ? Elements(policy_spec.observation(arrays - 1))
             : 0;
}

}  // namespace sibyl
