#include "learner/serving/act_service.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "common/rpc/server_stream.h"
#include "common/status_macros.h"

namespace sibyl::learner {

// The stream of one actor that asks for its actions.
class ActStream final : public rpc::ServerStream<v1::ActorMessage, v1::LearnerMessage>,
                        public ActorStream,
                        public ActionSink {
 public:
  explicit ActStream(ActService* service)
      : ServerStream(1024),
        ActorStream(service->streams_),
        service_(service),
        waiting_(service->streams_->experiment().actor().groups()) {}

  // ActorStream.
  void End(const grpc::Status& status) override { Close(status); }

  // ActionSink.
  void SendActions(v1::ActionBatch actions) override {
    Touch();
    waiting_[actions.group()] = false;
    v1::LearnerMessage message;
    *message.mutable_actions() = std::move(actions);
    Send(std::move(message));
  }
  void RequestTexts(v1::CaptionTextRequest request) override {
    v1::LearnerMessage message;
    *message.mutable_text_request() = std::move(request);
    Send(std::move(message));
  }
  void Refuse(const absl::Status& status) override { ActorStream::Refuse(status); }

 private:
  bool Owes() const override {
    return std::any_of(waiting_.begin(), waiting_.end(), [](const auto& waiting) { return !waiting; });
  }

  void OnMessage(v1::ActorMessage& message) override {
    Touch();
    if (const absl::Status status = Handle(message); !status.ok()) Refuse(status);
  }

  void OnEnd() override {
    if (playing()) service_->inference_->Detach(lease());
    Leave();
  }

  absl::Status Handle(v1::ActorMessage& message) {
    const auto self = std::static_pointer_cast<ActStream>(shared_from_this());
    switch (message.kind_case()) {
      case v1::ActorMessage::kHello: {
        v1::LearnerMessage answer;
        SIBYL_ASSIGN_OR_RETURN(*answer.mutable_welcome(), Greet(message.hello(), self));
        Send(std::move(answer));
        return absl::OkStatus();
      }
      case v1::ActorMessage::kReady:
        SIBYL_RETURN_IF_ERROR(BeginPlaying(message.ready()));
        service_->inference_->Attach(lease(), self);
        return absl::OkStatus();
      case v1::ActorMessage::kStep: {
        if (!playing()) return absl::InvalidArgumentError("a step before ready");
        v1::StepBatch& step = *message.mutable_step();
        if (step.group() >= waiting_.size() || waiting_[step.group()].exchange(true)) {
          return absl::InvalidArgumentError(absl::StrCat("a step of group ", step.group(), " out of turn"));
        }
        SIBYL_ASSIGN_OR_RETURN(const auto more, MoreEpisodes(step.first_episode()));
        if (more) {
          v1::LearnerMessage episodes;
          *episodes.mutable_episodes() = *more;
          Send(std::move(episodes));
        }
        return service_->inference_->Submit(lease(), std::move(step))
                   ? absl::OkStatus()
                   : absl::UnavailableError("the learner is stopping");
      }
      case v1::ActorMessage::kTexts:
        service_->captions_->AddTexts(message.texts().texts());
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError("an empty message");
    }
  }

  ActService* const service_;
  std::vector<std::atomic<bool>> waiting_;  // by group: a step of it has not been answered
};

grpc::ServerBidiReactor<v1::ActorMessage, v1::LearnerMessage>* ActService::Act(grpc::CallbackServerContext*) {
  auto stream = std::make_shared<ActStream>(this);
  const bool open = streams_->Open(stream);
  stream->Begin();
  if (!open) stream->End(ActorStreams::Stopping());
  return stream.get();
}

}  // namespace sibyl::learner
