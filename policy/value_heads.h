#pragma once

#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// Values V that a policy estimates of an observation: of the total reward, or of extrinsic and intrinsic reward.
inline int ValueCount(const v1::PolicyConfig& policy) {
  return policy.value_heads() == v1::VALUE_HEADS_SEPARATE ? 2 : 1;
}

}  // namespace sibyl
