#include "actor/session.h"

#include <unistd.h>

#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "actor/player.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/random.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/status_macros.h"
#include "environments/registry.h"
#include "sibyl/v1/act.grpc.pb.h"

namespace sibyl::actor {
namespace {

using Stream = grpc::ClientReaderWriter<v1::ActorMessage, v1::LearnerMessage>;

struct ActorMetrics {
  prometheus::Counter& steps;
  prometheus::Counter& episodes;
  prometheus::Counter& connects;
  prometheus::Counter& sent_bytes;
  prometheus::Gauge& connected;
  prometheus::Gauge& text_bytes;
};

std::string ActorName() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  return absl::StrCat(host, ":", getpid());
}

// Cancels the stream when the process is told to stop: the playing thread may be waiting in Read.
class CancelOnShutdown {
 public:
  CancelOnShutdown(Shutdown& shutdown, grpc::ClientContext& context)
      : thread_([this, &shutdown, &context] {
          NameThread("cancel");
          while (!done_) {
            if (shutdown.WaitFor(absl::Milliseconds(50))) {
              context.TryCancel();
              return;
            }
          }
        }) {}
  ~CancelOnShutdown() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// What a process keeps between streams: its lease, and its environments as long as the learner asks for the same.
struct Kept {
  std::optional<v1::SlotLease> lease;
  std::vector<std::unique_ptr<Environment>> environments;
  v1::ActorWelcome made_for;
};

absl::Status Lost() { return absl::UnavailableError("the stream ended"); }

bool SameEnvironments(const v1::ActorWelcome& a, const v1::ActorWelcome& b) {
  return a.environment() == b.environment() && a.environments() == b.environments() &&
         a.max_episode_steps() == b.max_episode_steps();
}

// From here on an error that is not the stream's is this process's own, and final.
absl::Status Play(Stream& stream, Kept& kept, ActorMetrics& metrics, bool* played) {
  v1::ActorMessage out;
  v1::LearnerMessage in;
  v1::ActorHello* hello = out.mutable_hello();
  hello->set_protocol_version(kProtocolVersion);
  hello->set_actor(ActorName());
  if (kept.lease) *hello->mutable_lease() = *kept.lease;
  if (!stream.Write(out) || !stream.Read(&in)) return Lost();
  if (!in.has_welcome()) return absl::InternalError("the learner's first message is not a welcome");
  const v1::ActorWelcome welcome = in.welcome();
  if (welcome.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the learner speaks protocol ", welcome.protocol_version(),
                                                      ", this actor ", kProtocolVersion, "; use the same release"));
  }
  kept.lease = welcome.lease();
  spdlog::info("slot {} of run {}: {} x {} in {} groups", welcome.lease().slot(), welcome.run_id(),
               welcome.environments(), welcome.environment(), welcome.groups());
  if (kept.environments.empty() || !SameEnvironments(kept.made_for, welcome)) {
    kept.environments.clear();
    SIBYL_ASSIGN_OR_RETURN(kept.environments, Player::MakeEnvironments(welcome));
    kept.made_for = welcome;
  }
  *out.mutable_ready()->mutable_environment() = kept.environments.front()->spec();
  if (!stream.Write(out)) return Lost();

  Player player(welcome, &kept.environments);
  const auto send = [&] {
    metrics.sent_bytes.Increment(static_cast<double>(out.ByteSizeLong()));
    return stream.Write(out);
  };
  for (int group = 0; group < player.groups(); ++group) {
    out.mutable_step()->Clear();
    SIBYL_RETURN_IF_ERROR(player.Start(group, out.mutable_step()));
    if (!send()) return Lost();
  }
  metrics.connected.Set(1);
  uint64_t steps = 0, episodes = 0;
  while (stream.Read(&in)) {
    *played = true;
    if (in.has_actions()) {
      out.mutable_step()->Clear();
      SIBYL_RETURN_IF_ERROR(player.Step(in.actions(), out.mutable_step()));
      if (!send()) break;
      metrics.steps.Increment(static_cast<double>(player.steps() - steps));
      metrics.episodes.Increment(static_cast<double>(player.episodes() - episodes));
      steps = player.steps();
      episodes = player.episodes();
      metrics.text_bytes.Set(static_cast<double>(player.text_bytes()));
    } else if (in.has_episodes()) {
      player.AddEpisodes(in.episodes());
    } else if (in.has_text_request()) {
      *out.mutable_texts() = player.Texts(in.text_request());
      if (!send()) break;
    }
  }
  return Lost();
}

}  // namespace

absl::Status PlayFor(const std::string& address, Shutdown& shutdown, Metrics& registry) {
  ActorMetrics metrics = {
      registry.Counter("sibyl_actor_steps_total", "Environment steps played."),
      registry.Counter("sibyl_actor_episodes_total", "Episodes that ended."),
      registry.Counter("sibyl_actor_connects_total", "Streams opened to the learner, failed ones included."),
      registry.Counter("sibyl_actor_sent_bytes_total", "Bytes of messages sent to the learner, before gRPC's framing."),
      registry.Gauge("sibyl_actor_connected", "1 while a stream to the learner is up, else 0."),
      registry.Gauge("sibyl_actor_caption_text_bytes",
                     "Approximate memory of the caption texts that the stream has carried."),
  };
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), FreshRandom64());
  Kept kept;
  std::string last_reason;
  while (!shutdown.requested()) {
    metrics.connects.Increment();
    absl::Status played_status, stream_status;
    bool played = false;
    {
      // A channel that has failed to connect keeps a backoff of its own, of up to many seconds; a fresh one tries now.
      const auto stub = v1::ActService::NewStub(rpc::MakeChannel(address));
      grpc::ClientContext context;
      CancelOnShutdown cancel(shutdown, context);
      auto stream = stub->Act(&context);
      played_status = Play(*stream, kept, metrics, &played);
      // Where the learner has ended the stream, its status says why; cancelling would hide that.
      if (!absl::IsUnavailable(played_status)) context.TryCancel();
      v1::LearnerMessage rest;
      while (stream->Read(&rest)) {
      }
      stream_status = rpc::FromGrpc(stream->Finish());
    }
    metrics.connected.Set(0);
    if (shutdown.requested()) break;
    // An error of this process itself: the environment cannot be made, a game failed.
    if (!absl::IsUnavailable(played_status)) return played_status;
    if (absl::IsFailedPrecondition(stream_status) && kept.lease) {
      spdlog::info("{}; taking a new lease", stream_status.message());
      kept.lease.reset();
      continue;
    }
    if (absl::IsFailedPrecondition(stream_status) || absl::IsInvalidArgument(stream_status)) return stream_status;
    if (played) backoff.Reset();
    const absl::Duration wait = backoff.Next();
    const std::string reason = absl::StrCat("learner at ", address, ": ", stream_status.ToString());
    if (reason != last_reason) spdlog::info("{}; trying again", reason);
    last_reason = reason;
    shutdown.WaitFor(wait);
  }
  return absl::OkStatus();
}

}  // namespace sibyl::actor
