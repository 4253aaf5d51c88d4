#pragma once

#include "common/reward_channels.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// Values V that a policy estimates of an observation: of the total reward; of extrinsic and intrinsic reward; or of the
// extrinsic reward and of that of each channel in use.
inline int ValueCount(const v1::PolicyConfig& policy, const v1::RewardConfig& reward) {
  switch (policy.value_heads()) {
    case v1::VALUE_HEADS_SEPARATE:
      return 2;
    case v1::VALUE_HEADS_EACH:
      return 1 + static_cast<int>(ChannelsInUse(reward).size());
    default:
      return 1;
  }
}

// The head, below ValueCount, that learns what each channel pays. The extrinsic reward's is 0.
inline std::array<int, kChannelCount> ChannelHeads(const v1::PolicyConfig& policy, const v1::RewardConfig& reward) {
  std::array<int, kChannelCount> heads = {};
  if (policy.value_heads() == v1::VALUE_HEADS_SEPARATE) heads.fill(1);
  if (policy.value_heads() == v1::VALUE_HEADS_EACH) {
    int head = 1;
    for (const Channel channel : ChannelsInUse(reward)) heads[channel] = head++;
  }
  return heads;
}

}  // namespace sibyl
