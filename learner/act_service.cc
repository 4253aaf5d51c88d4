#include "learner/act_service.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/rpc/server_stream.h"
#include "common/rpc/status.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"

namespace sibyl::learner {
namespace {

// Captions whose texts an actor remembers having sent.
constexpr uint32_t kTextMemory = 100'000;

}  // namespace

// One actor's stream.
class ActStream final : public rpc::ServerStream<v1::ActorMessage, v1::LearnerMessage>, public ActionSink {
 public:
  explicit ActStream(ActService* service)
      : ServerStream(1024),
        service_(service),
        waiting_(service->experiment_.actor().groups()),
        last_heard_micros_(absl::ToUnixMicros(service->clock_->Now())) {}

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
  void Refuse(const absl::Status& status) override {
    spdlog::warn("actor {}: {}", name_, status.ToString());
    service_->refused_.Increment();
    Close(rpc::ToGrpc(status));
  }

  // It is the actor's turn in some group, and it has been for longer than `limit`.
  bool SilentFor(absl::Duration limit) const {
    const bool owes = std::any_of(waiting_.begin(), waiting_.end(), [](const auto& waiting) { return !waiting; });
    return owes && service_->clock_->Now() - absl::FromUnixMicros(last_heard_micros_) > limit;
  }
  uint32_t slot() const { return lease_.slot(); }

 private:
  enum class Expects { kHello, kReady, kSteps };

  void OnMessage(v1::ActorMessage& message) override {
    Touch();
    if (const absl::Status status = Handle(message); !status.ok()) Refuse(status);
  }

  void OnEnd() override {
    if (expects_ == Expects::kHello) return;
    service_->Forget(this);
    service_->inference_->Detach(lease_);
    service_->slots_->Release(lease_);
    spdlog::info("slot {}: actor {} is gone", lease_.slot(), name_);
  }

  absl::Status Handle(v1::ActorMessage& message) {
    switch (message.kind_case()) {
      case v1::ActorMessage::kHello:
        if (expects_ != Expects::kHello) return absl::InvalidArgumentError("a second hello");
        return Welcome(message.hello());
      case v1::ActorMessage::kReady: {
        if (expects_ != Expects::kReady) return absl::InvalidArgumentError("ready out of turn");
        const std::string difference = Difference(message.ready().environment(), service_->spec_);
        if (!difference.empty()) {
          return absl::FailedPreconditionError(
              absl::StrCat("the actor's environment is not what this run trains on: ", difference));
        }
        expects_ = Expects::kSteps;
        service_->inference_->Attach(lease_, std::static_pointer_cast<ActStream>(shared_from_this()));
        return absl::OkStatus();
      }
      case v1::ActorMessage::kStep: {
        if (expects_ != Expects::kSteps) return absl::InvalidArgumentError("a step before ready");
        v1::StepBatch& step = *message.mutable_step();
        if (step.group() >= waiting_.size() || waiting_[step.group()].exchange(true)) {
          return absl::InvalidArgumentError(absl::StrCat("a step of group ", step.group(), " out of turn"));
        }
        SIBYL_RETURN_IF_ERROR(ExtendEpisodes(step));
        service_->inference_->Submit(lease_, std::move(step));
        return absl::OkStatus();
      }
      case v1::ActorMessage::kTexts:
        service_->captions_->AddTexts(message.texts().texts());
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError("an empty message");
    }
  }

  absl::Status Welcome(const v1::ActorHello& hello) {
    name_ = hello.actor();
    if (hello.protocol_version() != kProtocolVersion) {
      return absl::FailedPreconditionError(absl::StrCat("actor ", name_, " speaks protocol ", hello.protocol_version(),
                                                        ", this learner ", kProtocolVersion,
                                                        "; use the same release on both sides"));
    }
    SIBYL_ASSIGN_OR_RETURN(const Slots::Grant grant,
                           service_->slots_->Acquire(hello.has_lease() ? &hello.lease() : nullptr));
    lease_ = grant.lease;
    last_episode_ = grant.episodes.end();
    expects_ = Expects::kReady;
    service_->Register(lease_.slot(), std::static_pointer_cast<ActStream>(shared_from_this()));
    const v1::Experiment& experiment = service_->experiment_;
    v1::LearnerMessage message;
    v1::ActorWelcome* welcome = message.mutable_welcome();
    welcome->set_protocol_version(kProtocolVersion);
    welcome->set_run_id(service_->run_id_);
    *welcome->mutable_lease() = lease_;
    welcome->set_environment(experiment.environment().name());
    welcome->set_environments(experiment.actor().environments());
    welcome->set_groups(experiment.actor().groups());
    welcome->set_run_seed(experiment.seed());
    *welcome->mutable_episodes() = grant.episodes;
    welcome->set_caption_rule(experiment.environment().caption_rule());
    welcome->set_codec(experiment.actor().codec());
    welcome->set_max_episode_steps(experiment.environment().max_episode_steps());
    welcome->set_text_memory(kTextMemory);
    welcome->set_send_context(experiment.environment().send_context());
    Send(std::move(message));
    spdlog::info("slot {}: actor {}, episodes from {}", lease_.slot(), name_, grant.episodes.begin());
    return absl::OkStatus();
  }

  // Grants the next block when half of this one is used up.
  absl::Status ExtendEpisodes(const v1::StepBatch& step) {
    uint64_t highest = 0;
    for (size_t i = 0; i < CountIn<uint64_t>(step.first_episode()); ++i) {
      highest = std::max(highest, EntryOf<uint64_t>(step.first_episode(), i));
    }
    if (highest + kEpisodeBlock / 2 < last_episode_) return absl::OkStatus();
    SIBYL_ASSIGN_OR_RETURN(v1::EpisodeBlock block, service_->slots_->Extend(lease_.slot()));
    last_episode_ = block.end();
    v1::LearnerMessage message;
    *message.mutable_episodes() = std::move(block);
    Send(std::move(message));
    return absl::OkStatus();
  }

  void Touch() { last_heard_micros_ = absl::ToUnixMicros(service_->clock_->Now()); }

  ActService* const service_;
  std::vector<std::atomic<bool>> waiting_;  // by group: a step of it has not been answered
  std::atomic<int64_t> last_heard_micros_;  // or last answered
  // Written by OnMessage before anything else can see the stream; name_ and lease_ are constant from then on.
  std::string name_ = "?";
  v1::SlotLease lease_;
  Expects expects_ = Expects::kHello;
  uint64_t last_episode_ = 0;
};

ActService::ActService(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, std::string run_id,
                       Slots* slots, Inference* inference, CaptionTable* captions, Clock* clock, Metrics* metrics)
    : experiment_(experiment),
      spec_(spec),
      run_id_(std::move(run_id)),
      slots_(slots),
      inference_(inference),
      captions_(captions),
      clock_(clock),
      connected_(metrics->Gauge("sibyl_learner_actors_connected", "Actors that hold a slot.")),
      streams_(metrics->Counter("sibyl_learner_actor_streams_total", "Streams that actors have opened.")),
      refused_(metrics->Counter("sibyl_learner_actor_streams_refused_total",
                                "Streams ended because the actor was refused or broke the contract.")),
      silent_(metrics->Counter("sibyl_learner_actor_streams_silent_total",
                               "Streams ended because the actor was silent for too long.")) {}

grpc::ServerBidiReactor<v1::ActorMessage, v1::LearnerMessage>* ActService::Act(grpc::CallbackServerContext*) {
  streams_.Increment();
  auto stream = std::make_shared<ActStream>(this);
  stream->Begin();
  MutexLock lock(mutex_);
  if (closed_) stream->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping"));
  return stream.get();
}

void ActService::Register(uint32_t slot, std::shared_ptr<ActStream> stream) {
  std::shared_ptr<ActStream> older;
  {
    MutexLock lock(mutex_);
    older = std::exchange(by_slot_[slot], std::move(stream));
    connected_.Set(static_cast<double>(by_slot_.size()));
  }
  if (older != nullptr) {
    older->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the actor took its slot again on another stream"));
  }
}

void ActService::Forget(const ActStream* stream) {
  MutexLock lock(mutex_);
  const auto it = by_slot_.find(stream->slot());
  if (it != by_slot_.end() && it->second.get() == stream) by_slot_.erase(it);
  connected_.Set(static_cast<double>(by_slot_.size()));
}

void ActService::CloseSilent() {
  std::vector<std::shared_ptr<ActStream>> silent;
  {
    MutexLock lock(mutex_);
    const absl::Duration limit = absl::Seconds(experiment_.actor().silence_seconds());
    for (const auto& [slot, stream] : by_slot_) {
      if (stream->SilentFor(limit)) silent.push_back(stream);
    }
  }
  for (const auto& stream : silent) {
    silent_.Increment();
    spdlog::warn("slot {}: silent for {} s, dropping its stream", stream->slot(),
                 experiment_.actor().silence_seconds());
    stream->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "silent for too long"));
  }
}

void ActService::CloseAll() {
  std::vector<std::shared_ptr<ActStream>> streams;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    for (const auto& [slot, stream] : by_slot_) streams.push_back(stream);
  }
  for (const auto& stream : streams) {
    stream->Close(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping"));
  }
}

}  // namespace sibyl::learner
