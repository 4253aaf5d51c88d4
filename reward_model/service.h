#pragma once

#include "reward_model/coordinator.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::reward_model {

// Translates between RewardService and a Coordinator, which must outlive the server.
class Service : public v1::RewardService::CallbackService {
 public:
  explicit Service(Coordinator& coordinator) : coordinator_(coordinator) {}
  grpc::ServerBidiReactor<v1::LearnerToRewardModel, v1::RewardModelToLearner>* Rewards(
      grpc::CallbackServerContext* context) override;

 private:
  Coordinator& coordinator_;
};

}  // namespace sibyl::reward_model
