#pragma once

#include <cstdint>

#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

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
};

// The two parts of the total reward.
struct MixedReward {
  double extrinsic = 0, intrinsic = 0;
};

// total = extrinsic_coefficient * clip(extrinsic_scale * r_ext) + intrinsic, where with
//   worth(c, N) = intrinsic_coefficient * r_int[c] / N^count_exponent,
// r_int at most intrinsic_ceiling if that is above 0,
// intrinsic is
//   SHAPING_NONE: the worth of the caption that reward.credit names;
//   SHAPING_POTENTIAL: gamma * worth(after) - worth(before), nothing for `after` where the episode terminated: the
//     potential-based shaping that leaves the best policies as they are (Ng et al. 1999);
//   SHAPING_DELTA: worth(before) - worth(after), the Delta of Gao et al. 2024 (arXiv 2410.15115), whose sums telescope.
MixedReward MixReward(const v1::RewardConfig& config, double gamma, const Payment& payment);

}  // namespace sibyl::learner
