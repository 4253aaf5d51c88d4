#pragma once

#include "absl/status/status.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// Sends messages to one connected learner. No call blocks, and none calls back into the reward model.
class LearnerOutput {
 public:
  virtual ~LearnerOutput() = default;
  // Messages arrive in order. False: the learner is gone or does not read.
  virtual bool Deliver(v1::RewardModelToLearner message) = 0;
  // Ends the connection with this status.
  virtual void Disconnect(const absl::Status& status) = 0;
};

}  // namespace sibyl::reward_model
