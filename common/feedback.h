#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/reward_channels.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// What a policy is told of its last step beside the observation: the action (policy.last_action) and what it was paid
// (policy.last_rewards), as one more observation array of floats. Choices are one-hot, part after part; numbers of a
// box are as the policy chose them. Rewards are the clipped extrinsic one and that of each channel in use, each before
// its coefficient, so that a coefficient that changes over the run does not change what a policy sees. Everything is 0
// where an episode starts. Constant after construction; any thread.
class Feedback {
 public:
  Feedback(const v1::Experiment& experiment, const v1::EnvironmentSpec& environment);

  // K, floats of the array; 0: the policy is told nothing.
  size_t numbers() const { return action_numbers_ + reward_numbers(); }
  size_t bytes() const { return numbers() * sizeof(float); }
  // R, rewards among them.
  size_t reward_numbers() const { return tells_rewards_ ? 1 + channels_.size() : 0; }
  // Whether Rewards looks at what captions are worth.
  bool reads_captions() const;

  // The R rewards of one transition.
  void Rewards(const Payment& payment, float* rewards) const;
  // Writes the K floats of an action of these bytes (ActionSpec) and its R rewards to `array`, which need not be
  // aligned.
  void Write(const char* action, const float* rewards, char* array) const;

  // What the policy observes: the environment's arrays, and behind them kFeedbackArray, where K is above 0.
  v1::EnvironmentSpec PolicySpec() const;

 private:
  const v1::EnvironmentSpec environment_;
  const v1::RewardConfig reward_;
  const double gamma_;
  const bool tells_rewards_;
  const std::vector<Channel> channels_;
  const size_t action_numbers_;
};

// The name of the array in PolicySpec. No Python identifier, so that no environment has it.
inline constexpr char kFeedbackArray[] = "sibyl/feedback";
// Floats of that array in a policy's spec; 0: it has none.
size_t FeedbackNumbers(const v1::EnvironmentSpec& policy_spec);

}  // namespace sibyl
