#pragma once

#include "reward_model/reward_model.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::reward_model {

// Translates between RewardService and a RewardModel, which must outlive the server.
class Service : public v1::RewardService::CallbackService {
 public:
  explicit Service(RewardModel& model) : model_(model) {}
  grpc::ServerBidiReactor<v1::LearnerToRewardModel, v1::RewardModelToLearner>* Rewards(
      grpc::CallbackServerContext* context) override;

 private:
  RewardModel& model_;
};

}  // namespace sibyl::reward_model
