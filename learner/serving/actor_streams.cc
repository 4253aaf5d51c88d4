#include "learner/serving/actor_streams.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/reward_channels.h"
#include "common/rpc/status.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "learner/sizes.h"

namespace sibyl::learner {
namespace {

// Captions whose texts an actor remembers having sent.
constexpr uint32_t kTextMemory = 100'000;

}  // namespace

ActorStreams::ActorStreams(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, std::string run_id,
                           Slots* slots, UnrollPool* unrolls, Clock* clock, Metrics* metrics)
    : experiment_(experiment),
      spec_(spec),
      run_id_(std::move(run_id)),
      slots_(slots),
      unrolls_(unrolls),
      clock_(clock),
      connected_(metrics->Gauge("sibyl_learner_actors_connected", "Actors that hold a slot.")),
      streams_(metrics->Counter("sibyl_learner_actor_streams_total", "Streams that actors have opened.")),
      refused_(metrics->Counter("sibyl_learner_actor_streams_refused_total",
                                "Streams ended because the actor was refused or broke the contract.")),
      silent_(metrics->Counter("sibyl_learner_actor_streams_silent_total",
                               "Streams ended because the actor was silent for too long.")) {
  MutexLock lock(mutex_);
  FitPool();
}

grpc::Status ActorStreams::Stopping() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the learner is stopping"); }

bool ActorStreams::Open(std::shared_ptr<ActorStream> stream) {
  streams_.Increment();
  MutexLock lock(mutex_);
  if (closed_) return false;
  greeting_.insert(std::move(stream));
  return true;
}

void ActorStreams::FitPool() {
  connected_.Set(static_cast<double>(by_slot_.size()));
  const v1::ActorConfig& actor = experiment_.actor();
  const int environments =
      static_cast<int>(std::min<uint64_t>(by_slot_.size() * uint64_t{actor.environments()}, 1 << 30));
  const int needed = UnrollsNeeded(environments, UnrollsPerBatch(experiment_.learner()),
                                   static_cast<int>(actor.environments() / actor.groups()));
  unrolls_->SetCapacity(std::max(needed, static_cast<int>(experiment_.learner().unroll_slots())));
}

void ActorStreams::Register(uint32_t slot, std::shared_ptr<ActorStream> stream) {
  std::shared_ptr<ActorStream> older;
  {
    MutexLock lock(mutex_);
    greeting_.erase(stream);
    older = std::exchange(by_slot_[slot], std::move(stream));
    FitPool();
  }
  if (older != nullptr) {
    older->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the actor took its slot again on another stream"));
  }
}

void ActorStreams::Forget(const ActorStream* stream) {
  std::shared_ptr<ActorStream> kept;  // until the lock is released
  MutexLock lock(mutex_);
  const auto greeting = absl::c_find_if(greeting_, [stream](const auto& other) { return other.get() == stream; });
  if (greeting != greeting_.end()) {
    kept = *greeting;
    greeting_.erase(greeting);
    return;
  }
  const auto it = by_slot_.find(stream->slot());
  if (it == by_slot_.end() || it->second.get() != stream) return;
  kept = std::move(it->second);
  by_slot_.erase(it);
  FitPool();
}

void ActorStreams::CloseSilent() {
  std::vector<std::shared_ptr<ActorStream>> silent;
  {
    MutexLock lock(mutex_);
    const absl::Duration limit = absl::Seconds(experiment_.actor().silence_seconds());
    for (const auto& stream : greeting_) {
      if (stream->SilentFor(limit)) silent.push_back(stream);
    }
    for (const auto& [slot, stream] : by_slot_) {
      if (stream->SilentFor(limit)) silent.push_back(stream);
    }
  }
  for (const auto& stream : silent) {
    silent_.Increment();
    spdlog::warn("{}: silent for {} s, dropping its stream", stream->description(),
                 experiment_.actor().silence_seconds());
    stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "silent for too long"));
  }
}

void ActorStreams::CloseAll() {
  std::vector<std::shared_ptr<ActorStream>> streams;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    streams.assign(greeting_.begin(), greeting_.end());
    for (const auto& [slot, stream] : by_slot_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->End(Stopping());
}

void ActorStream::Refuse(const absl::Status& status) {
  const absl::Status named(status.code(), absl::StrCat(description(), ": ", status.message()));
  spdlog::warn("{}", named.ToString());
  streams_->refused_.Increment();
  End(rpc::ToGrpc(named));
}

std::string ActorStream::description() const {
  MutexLock lock(mutex_);
  return slot_ < 0 ? absl::StrCat("actor ", name_) : absl::StrCat("actor ", name_, " in slot ", slot_);
}

bool ActorStream::SilentFor(absl::Duration limit) const {
  return Owes() && streams_->clock_->Now() - absl::FromUnixMicros(last_heard_micros_) > limit;
}

void ActorStream::Touch() { last_heard_micros_ = absl::ToUnixMicros(streams_->clock_->Now()); }

absl::StatusOr<v1::ActorWelcome> ActorStream::Greet(const v1::ActorHello& hello, std::shared_ptr<ActorStream> self) {
  if (expects_ != Expects::kHello) return absl::InvalidArgumentError("a second hello");
  {
    MutexLock lock(mutex_);
    name_ = hello.actor();
  }
  if (hello.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("speaks protocol ", hello.protocol_version(), ", this learner ",
                                                      kProtocolVersion, "; use the same release on both sides"));
  }
  SIBYL_ASSIGN_OR_RETURN(const Slots::Grant grant,
                         streams_->slots_->Acquire(hello.has_lease() ? &hello.lease() : nullptr));
  lease_ = grant.lease;
  {
    MutexLock lock(mutex_);
    slot_ = lease_.slot();
  }
  last_episode_ = grant.episodes.end();
  expects_ = Expects::kReady;
  streams_->Register(lease_.slot(), std::move(self));
  const v1::Experiment& experiment = streams_->experiment_;
  v1::ActorWelcome welcome;
  welcome.set_protocol_version(kProtocolVersion);
  welcome.set_run_id(streams_->run_id_);
  *welcome.mutable_lease() = lease_;
  welcome.set_environment(experiment.environment().name());
  welcome.set_environments(experiment.actor().environments());
  welcome.set_groups(experiment.actor().groups());
  welcome.set_run_seed(experiment.seed());
  *welcome.mutable_episodes() = grant.episodes;
  welcome.set_caption_rule(experiment.environment().caption_rule());
  welcome.set_max_caption_length(experiment.environment().max_caption_length());
  welcome.set_codec(experiment.actor().codec());
  welcome.set_max_episode_steps(experiment.environment().max_episode_steps());
  welcome.set_text_memory(kTextMemory);
  welcome.set_send_context(experiment.environment().send_context());
  welcome.set_stagger(experiment.actor().stagger());
  welcome.set_count_observations(CountsObservations(experiment.reward()));
  spdlog::info("{}: episodes from {}", description(), grant.episodes.begin());
  return welcome;
}

absl::Status ActorStream::BeginPlaying(const v1::ActorReady& ready) {
  if (expects_ != Expects::kReady) return absl::InvalidArgumentError("ready out of turn");
  const std::string difference = Difference(ready.environment(), streams_->spec_);
  if (!difference.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the actor's environment is not what this run trains on: ", difference));
  }
  expects_ = Expects::kSteps;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<v1::EpisodeBlock>> ActorStream::MoreEpisodes(const std::string& first_episode) {
  uint64_t highest = 0;
  for (size_t i = 0; i < CountIn<uint64_t>(first_episode); ++i) {
    highest = std::max(highest, EntryOf<uint64_t>(first_episode, i));
  }
  if (highest >= last_episode_) {
    return absl::InvalidArgumentError(
        absl::StrCat("episode ", highest, " is not among those granted, which end at ", last_episode_));
  }
  if (highest + kEpisodeBlock / 2 < last_episode_) return std::nullopt;
  SIBYL_ASSIGN_OR_RETURN(v1::EpisodeBlock block, streams_->slots_->Extend(lease_.slot()));
  last_episode_ = block.end();
  return block;
}

void ActorStream::Leave() {
  streams_->Forget(this);
  if (expects_ == Expects::kHello) return;
  streams_->slots_->Release(lease_);
  spdlog::info("{} is gone", description());
}

}  // namespace sibyl::learner
