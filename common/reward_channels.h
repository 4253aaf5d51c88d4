#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sibyl/v1/experiment.pb.h"

// Sources of reward. A reward channel is one source of intrinsic reward, beside the environment's own reward:
//   total = extrinsic_coefficient * clip(extrinsic_scale * r_ext) + the sum of what the channels pay.
// To add a channel: give it a place in `Channel`, a row in kChannels (reward_channels.cc), and what it looks at a place
// in Payment, which MakeBatch fills in.

namespace sibyl {

enum Channel : int {
  // What the reward model gives the caption.
  kCaptionChannel,
  // How new the observation is in its episode.
  kNoveltyChannel,
  kChannelCount,
};
// Names the channel in metrics and curves.
const char* ChannelName(Channel channel);

// What each channel's reward is multiplied by: a straight line from its coefficient at the beginning of the run to its
// final coefficient at total_steps.
using ChannelCoefficients = std::array<double, kChannelCount>;
// `progress`: share of the run that is done, 0 to 1.
ChannelCoefficients CoefficientsAt(const v1::RewardConfig& config, double progress);

// The channels that pay at any time of the run, in the order of Channel.
std::vector<Channel> ChannelsInUse(const v1::RewardConfig& config);

// Whether actors must count observations (ActorWelcome.count_observations).
bool CountsObservations(const v1::RewardConfig& config);

// What a caption is worth: the reward model's reward for it, and how often it has occurred in its episode, this time
// included (0 for the empty caption).
struct CaptionWorth {
  double reward = 0;
  uint32_t count = 0;
};

// What one transition is paid for.
struct Payment {
  double extrinsic = 0;  // r_{t+1} of the environment
  CaptionWorth before;   // caption of o_t
  CaptionWorth after;    // caption of o_{t+1}, the final one included
  bool terminated = false;
  uint32_t observation_count = 0;  // occurrences of o_{t+1} in its episode, this one included; 0: not counted
};

// The parts of the total reward.
struct MixedReward {
  double extrinsic = 0;
  std::array<double, kChannelCount> channels = {};
  double intrinsic = 0;  // the sum of `channels`
};

// The caption channel, where worth(c, N) = coefficient * r_int[c] / N^count_exponent and r_int is at most
// intrinsic_ceiling if that is above 0, pays
//   SHAPING_NONE: the worth of the caption that reward.credit names;
//   SHAPING_POTENTIAL: gamma * worth(after) - worth(before), nothing for `after` where the episode terminated: the
//     potential-based shaping that leaves the best policies as they are (Ng et al. 1999);
//   SHAPING_DELTA: worth(before) - worth(after), the Delta of Gao et al. 2024 (arXiv 2410.15115), whose sums telescope.
// The novelty channel pays coefficient / M^novelty.count_exponent, M the observation_count.
MixedReward MixReward(const v1::RewardConfig& config, const ChannelCoefficients& coefficients, double gamma,
                      const Payment& payment);

}  // namespace sibyl
