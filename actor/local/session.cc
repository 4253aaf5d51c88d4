#include "actor/local/session.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "actor/connection.h"
#include "actor/local/local_player.h"
#include "common/log.h"
#include "common/mutex.h"
#include "common/rpc/server.h"
#include "common/runtime/worker.h"
#include "common/status_macros.h"
#include "sibyl/v1/unroll.grpc.pb.h"

namespace sibyl::actor {
namespace {

using Stream = grpc::ClientReaderWriter<v1::LocalActorMessage, v1::LocalLearnerMessage>;

// While a round is played without a word, the learner hears at least so often that it goes on.
constexpr absl::Duration kHeardEvery = absl::Seconds(1);
// A message is put into the inbox at once.
constexpr absl::Duration kHangs = absl::Minutes(1);

struct LocalMetrics {
  explicit LocalMetrics(Metrics& metrics)
      : actor(metrics),
        version(metrics.Gauge("sibyl_actor_policy_version", "Optimiser steps behind the weights that play.")),
        inference_seconds(metrics.Counter("sibyl_actor_inference_seconds_total", "Time spent in the policy.")),
        request_waits(metrics.Counter("sibyl_actor_batch_request_waits_seconds_total",
                                      "Time that playing waited for the learner to request the next batch.")) {}
  ActorMetrics actor;
  prometheus::Gauge& version;
  prometheus::Counter& inference_seconds;
  prometheus::Counter& request_waits;
};

// What has come from the learner and was not looked at yet. Any thread.
class Inbox {
 public:
  struct Contents {
    std::optional<v1::Weights> weights;      // the newest
    std::vector<v1::BatchRequest> captions;  // those that say something of captions; without weights
    std::vector<v1::EpisodeBlock> episodes;
    std::vector<v1::CaptionTextRequest> text_requests;
  };

  void Put(v1::LocalLearnerMessage& message) {
    MutexLock lock(mutex_);
    if (message.has_batch_request()) {
      ++requests_;
      v1::BatchRequest& request = *message.mutable_batch_request();
      if (request.has_weights()) contents_.weights = std::move(*request.mutable_weights());
      if (request.captions_size() > 0 || request.forget_captions()) {
        request.clear_weights();
        contents_.captions.push_back(std::move(request));
      }
    } else if (message.has_episodes()) {
      contents_.episodes.push_back(message.episodes());
    } else if (message.has_text_request()) {
      contents_.text_requests.push_back(message.text_request());
    }
    came_.NotifyAll();
  }
  // The learner says nothing more.
  void End() {
    MutexLock lock(mutex_);
    ended_ = true;
    came_.NotifyAll();
  }

  // What has come. Waits until so many batches were requested, or something else came; nothing once the stream
  // ended. Rests meanwhile.
  std::optional<Contents> Take(uint64_t requests, Heartbeat& heartbeat, bool* requested) {
    heartbeat.Rest();
    MutexLock lock(mutex_);
    while (!ended_ && requests_ < requests && contents_.episodes.empty() && contents_.text_requests.empty()) {
      came_.Wait(mutex_);
    }
    heartbeat.Beat();
    if (ended_) return std::nullopt;
    *requested = requests_ >= requests;
    return std::exchange(contents_, {});
  }
  bool AnyRequest() {
    MutexLock lock(mutex_);
    return requests_ > 0;
  }

 private:
  Mutex mutex_;
  CondVar came_;
  uint64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  Contents contents_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// Plays round after round until the stream ends. `inbox` is filled meanwhile.
absl::Status PlayRounds(Stream& stream, Inbox& inbox, int unroll_length, LocalPlayer& local, LocalMetrics& metrics,
                        Clock& clock, Heartbeat& heartbeat) {
  // Play T/4 steps before the previous batch is answered. This hides the round trip, and keeps at least 3T/4 of the
  // steps on new weights where training is what all wait for.
  const int ahead = unroll_length / 4;
  Player& player = local.player();
  v1::LocalActorMessage out, other;
  v1::UnrollBatch* batch = out.mutable_unrolls();
  absl::Time last_sent = clock.Now();
  const auto send = [&](const v1::LocalActorMessage& message) {
    metrics.actor.sent_bytes.Increment(static_cast<double>(message.ByteSizeLong()));
    last_sent = clock.Now();
    return stream.Write(message);
  };
  uint64_t steps = 0, episodes = 0, cut_captions = 0;
  double inference_seconds = 0;
  for (uint64_t round = 0;; ++round) {
    for (int t = 0; t < unroll_length; ++t) {
      const uint64_t requests = t >= ahead || round == 0 ? round + 1 : round;
      const absl::Time waiting = clock.Now();
      for (bool requested = false; !requested;) {
        const auto contents = inbox.Take(requests, heartbeat, &requested);
        if (!contents) return Lost();
        for (const v1::EpisodeBlock& block : contents->episodes) player.AddEpisodes(block);
        for (const v1::BatchRequest& request : contents->captions) local.TakeCaptionRewards(request);
        if (contents->weights) SIBYL_RETURN_IF_ERROR(local.TakeWeights(*contents->weights));
        for (const v1::CaptionTextRequest& request : contents->text_requests) {
          *other.mutable_texts() = player.Texts(request);
          if (!send(other)) return Lost();
        }
      }
      const absl::Time now = clock.Now();
      if (t == (round == 0 ? 0 : ahead)) metrics.request_waits.Increment(absl::ToDoubleSeconds(now - waiting));
      if (now - last_sent > kHeardEvery) {
        other.mutable_playing();
        if (!send(other)) return Lost();
      }
      if (t == 0) SIBYL_RETURN_IF_ERROR(local.Begin(batch));
      SIBYL_RETURN_IF_ERROR(local.Step(batch));
    }
    if (const size_t bytes = out.ByteSizeLong(); bytes > size_t{rpc::kMaxMessageBytes}) {
      return absl::FailedPreconditionError(absl::StrCat(
          "a batch of unrolls has ", bytes, " bytes, more than the ", rpc::kMaxMessageBytes,
          " of a message; lower actor.environments or learner.unroll_length, or let actor.codec compress"));
    }
    if (!send(out)) return Lost();
    metrics.actor.steps.Increment(static_cast<double>(player.steps() - std::exchange(steps, player.steps())));
    metrics.actor.cut_captions.Increment(
        static_cast<double>(player.cut_captions() - std::exchange(cut_captions, player.cut_captions())));
    metrics.actor.episodes.Increment(
        static_cast<double>(player.episodes() - std::exchange(episodes, player.episodes())));
    metrics.inference_seconds.Increment(local.inference_seconds() -
                                        std::exchange(inference_seconds, local.inference_seconds()));
    metrics.actor.text_bytes.Set(static_cast<double>(player.text_bytes()));
    metrics.version.Set(static_cast<double>(local.policy_version()));
  }
}

// Speaks on a fresh stream to its end.
absl::Status Play(Stream& stream, grpc::ClientContext& context, ActorState& state, LocalMetrics& metrics,
                  Program& program, Heartbeat& heartbeat, bool* played) {
  v1::LocalActorMessage out;
  v1::LocalLearnerMessage in;
  *out.mutable_hello() = Hello(state);
  if (!stream.Write(out) || !ReadNext(stream, heartbeat, &in)) return Lost();
  if (!in.has_welcome()) return absl::InternalError("the learner's first message is not a welcome");
  const v1::LocalWelcome welcome = in.welcome();
  SIBYL_RETURN_IF_ERROR(Accept(welcome.actor(), &state));
  if (welcome.unroll_length() == 0) return absl::InternalError("the learner asks for unrolls of 0 steps");
  at::set_num_threads(static_cast<int>(std::max<uint32_t>(welcome.threads(), 1)));
  SIBYL_ASSIGN_OR_RETURN(const auto local, LocalPlayer::Make(welcome, &state.environments));
  *out.mutable_ready()->mutable_environment() = state.environments.front()->spec();
  if (!stream.Write(out)) return Lost();

  Inbox inbox;
  absl::Status read;
  Worker reader(
      "reader",
      [&](const std::stop_token&) {
        const std::unique_ptr<Heartbeat> reading = program.heartbeats.Add("reader", kHangs);
        while (ReadNext(stream, *reading, &in)) inbox.Put(in);
        inbox.End();
        return absl::OkStatus();
      },
      [&](absl::Status status) {
        read = std::move(status);
        inbox.End();
      });
  metrics.actor.connected.Set(1);
  // LibTorch throws.
  absl::Status status = CatchExceptions([&] {
    return PlayRounds(stream, inbox, static_cast<int>(welcome.unroll_length()), *local, metrics, program.clock,
                      heartbeat);
  });
  if (!absl::IsUnavailable(status)) context.TryCancel();
  reader.Join();
  if (!read.ok()) status = read;
  *played = inbox.AnyRequest();
  return status;
}

}  // namespace

absl::Status PlayLocallyFor(const std::string& address, Program& program) {
  LocalMetrics metrics(program.metrics);
  ActorState state;
  return StayConnected(
      address, program, metrics.actor, state,
      [&](const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context, Heartbeat& heartbeat) {
        const auto stub = v1::UnrollService::NewStub(channel);
        const auto stream = stub->Play(&context);
        bool played = false;
        const absl::Status own = Play(*stream, context, state, metrics, program, heartbeat, &played);
        return EndOf(*stream, context, own, played);
      });
}

}  // namespace sibyl::actor
