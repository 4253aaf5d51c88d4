#include "learner/serving/unroll_service.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "common/rpc/server_stream.h"
#include "common/status_macros.h"

namespace sibyl::learner {

// The stream of one actor that holds the policy itself.
class UnrollStream final : public rpc::ServerStream<v1::LocalActorMessage, v1::LocalLearnerMessage>,
                           public ActorStream,
                           public UnrollSink {
 public:
  explicit UnrollStream(UnrollService* service)
      : ServerStream(1024), ActorStream(service->streams_), service_(service) {}

  // ActorStream.
  void End(const grpc::Status& status) override { Close(status); }

  // UnrollSink; one thread.
  void RequestBatch(v1::BatchRequest request) override {
    const auto newest = service_->weights_->Newest();
    if (!newest.ok()) return Refuse(newest.status());
    v1::LocalLearnerMessage message;
    message.mutable_batch_request()->Swap(&request);
    if (message.batch_request().sequence() == 0 || newest->policy_version != sent_version_) {
      v1::Weights* weights = message.mutable_batch_request()->mutable_weights();
      weights->set_policy_version(newest->policy_version);
      weights->set_safetensors(*newest->bytes);
      sent_version_ = newest->policy_version;
      service_->weights_bytes_.Increment(static_cast<double>(newest->bytes->size()));
    }
    Touch();
    requested_ = true;
    Send(std::move(message));
  }
  void RequestTexts(v1::CaptionTextRequest request) override {
    v1::LocalLearnerMessage message;
    *message.mutable_text_request() = std::move(request);
    Send(std::move(message));
  }
  void Refuse(const absl::Status& status) override { ActorStream::Refuse(status); }

 private:
  bool Owes() const override { return requested_ || !playing_; }

  void OnMessage(v1::LocalActorMessage& message) override {
    Touch();
    if (const absl::Status status = Handle(message); !status.ok()) Refuse(status);
  }

  void OnEnd() override {
    if (playing()) service_->receiver_->Detach(lease());
    Leave();
  }

  absl::Status Handle(v1::LocalActorMessage& message) {
    const auto self = std::static_pointer_cast<UnrollStream>(shared_from_this());
    switch (message.kind_case()) {
      case v1::LocalActorMessage::kHello: {
        const v1::Experiment& experiment = service_->streams_->experiment();
        v1::LocalLearnerMessage answer;
        v1::LocalWelcome* welcome = answer.mutable_welcome();
        SIBYL_ASSIGN_OR_RETURN(*welcome->mutable_actor(), Greet(message.hello(), self));
        welcome->mutable_actor()->set_groups(1);
        welcome->set_unroll_length(experiment.learner().unroll_length());
        *welcome->mutable_policy() = experiment.policy();
        *welcome->mutable_reward() = experiment.reward();
        welcome->set_intrinsic_gamma(experiment.learner().intrinsic_gamma());
        welcome->set_threads(experiment.learner().inference_threads());
        Send(std::move(answer));
        return absl::OkStatus();
      }
      case v1::LocalActorMessage::kReady:
        SIBYL_RETURN_IF_ERROR(BeginPlaying(message.ready()));
        playing_ = true;
        service_->receiver_->Attach(lease(), self);
        return absl::OkStatus();
      case v1::LocalActorMessage::kUnrolls: {
        v1::UnrollBatch& batch = *message.mutable_unrolls();
        if (!requested_.exchange(false)) {
          return absl::InvalidArgumentError(absl::StrCat("unroll batch ", batch.sequence(), " out of turn"));
        }
        for (const v1::StepBatch& step : batch.steps()) {
          SIBYL_ASSIGN_OR_RETURN(const auto more, MoreEpisodes(step.first_episode()));
          if (!more) continue;
          v1::LocalLearnerMessage episodes;
          *episodes.mutable_episodes() = *more;
          Send(std::move(episodes));
        }
        return service_->receiver_->Submit(lease(), std::move(batch))
                   ? absl::OkStatus()
                   : absl::UnavailableError("the learner is stopping");
      }
      case v1::LocalActorMessage::kTexts:
        service_->captions_->AddTexts(message.texts().texts());
        return absl::OkStatus();
      case v1::LocalActorMessage::kPlaying:
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError("an empty message");
    }
  }

  UnrollService* const service_;
  std::atomic<bool> playing_ = false;    // ready has come
  std::atomic<bool> requested_ = false;  // it is the actor's turn to send a batch
  uint64_t sent_version_ = 0;            // RequestBatch's
};

UnrollService::UnrollService(ActorStreams* streams, UnrollReceiver* receiver, SharedWeights* weights,
                             CaptionTable* captions, Metrics* metrics)
    : streams_(streams),
      receiver_(receiver),
      weights_(weights),
      captions_(captions),
      weights_bytes_(metrics->Counter("sibyl_learner_weights_sent_bytes_total",
                                      "Bytes of weights sent to local actors, before gRPC's framing.")) {}

grpc::ServerBidiReactor<v1::LocalActorMessage, v1::LocalLearnerMessage>* UnrollService::Play(
    grpc::CallbackServerContext*) {
  auto stream = std::make_shared<UnrollStream>(this);
  const bool open = streams_->Open(stream);
  stream->Begin();
  if (!open) stream->End(ActorStreams::Stopping());
  return stream.get();
}

}  // namespace sibyl::learner
