#include "reward_model/service.h"

#include "common/log.h"
#include "common/rpc/server_stream.h"
#include "common/rpc/status.h"

namespace sibyl::reward_model {
namespace {

// A snapshot of 16 million scores, or minutes of updates.
constexpr size_t kMaxQueued = 1024;

class LearnerStream : public rpc::ServerStream<v1::LearnerToRewardModel, v1::RewardModelToLearner>,
                      public LearnerOutput {
 public:
  // `peer`: the learner's address, for the log.
  LearnerStream(Coordinator& coordinator, std::string peer)
      : ServerStream(kMaxQueued), coordinator_(coordinator), peer_(std::move(peer)) {}

  bool Deliver(v1::RewardModelToLearner message) override { return Send(std::move(message)); }
  void Disconnect(const absl::Status& status) override { Close(rpc::ToGrpc(status)); }

 private:
  void OnMessage(v1::LearnerToRewardModel& message) override {
    const absl::Status status = Handle(message);
    if (status.ok()) return;
    spdlog::warn("the learner at {} is refused: {}", peer_, status.ToString());
    Close(rpc::ToGrpc(status));
  }

  void OnEnd() override { coordinator_.DisconnectLearner(this); }

  absl::Status Handle(const v1::LearnerToRewardModel& message) {
    if (message.has_hello() == greeted_) {
      return absl::InvalidArgumentError("LearnerHello must be the first message of a stream, and only that");
    }
    switch (message.kind_case()) {
      case v1::LearnerToRewardModel::kHello:
        greeted_ = true;
        return coordinator_.ConnectLearner(message.hello(),
                                           std::static_pointer_cast<LearnerStream>(shared_from_this()));
      case v1::LearnerToRewardModel::kCounts:
        return coordinator_.OnCounts(this, message.counts());
      case v1::LearnerToRewardModel::kTexts:
        coordinator_.OnTexts(this, message.texts());
        return absl::OkStatus();
      case v1::LearnerToRewardModel::KIND_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError("a message of unknown kind");
  }

  Coordinator& coordinator_;
  const std::string peer_;
  bool greeted_ = false;  // only used in OnMessage
};

}  // namespace

grpc::ServerBidiReactor<v1::LearnerToRewardModel, v1::RewardModelToLearner>* Service::Rewards(
    grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<LearnerStream>(coordinator_, context->peer());
  stream->Begin();
  return stream.get();
}

}  // namespace sibyl::reward_model
