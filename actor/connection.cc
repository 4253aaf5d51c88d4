#include "actor/connection.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "actor/player.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/random.h"
#include "common/rpc/channel.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::actor {
namespace {

// A group's step, or a stream's beginning with the environments' making, takes seconds at most.
constexpr absl::Duration kHangs = absl::Minutes(1);

bool SameEnvironments(const v1::ActorWelcome& a, const v1::ActorWelcome& b) {
  return a.environment() == b.environment() && a.environments() == b.environments() && a.groups() == b.groups() &&
         a.send_context() == b.send_context() && a.max_episode_steps() == b.max_episode_steps();
}

}  // namespace

ActorMetrics::ActorMetrics(Metrics& metrics)
    : steps(metrics.Counter("sibyl_actor_steps_total", "Environment steps played.")),
      episodes(metrics.Counter("sibyl_actor_episodes_total", "Episodes that ended.")),
      cut_captions(metrics.Counter("sibyl_actor_cut_captions_total",
                                   "Steps whose caption was longer than environment.max_caption_length and was cut.")),
      connects(metrics.Counter("sibyl_actor_connects_total", "Streams opened to the learner, failed ones included.")),
      sent_bytes(metrics.Counter("sibyl_actor_sent_bytes_total",
                                 "Bytes of messages sent to the learner, before gRPC's framing.")),
      connected(metrics.Gauge("sibyl_actor_connected", "1 while a stream to the learner is up, else 0.")),
      text_bytes(metrics.Gauge("sibyl_actor_caption_text_bytes",
                               "Approximate memory of the caption texts that the stream has carried.")) {}

v1::ActorHello Hello(const ActorState& state) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  v1::ActorHello hello;
  hello.set_protocol_version(kProtocolVersion);
  hello.set_actor(absl::StrCat(host, ":", getpid()));
  if (state.lease) *hello.mutable_lease() = *state.lease;
  return hello;
}

absl::Status Accept(const v1::ActorWelcome& welcome, ActorState* state) {
  if (welcome.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the learner speaks protocol ", welcome.protocol_version(),
                                                      ", this actor ", kProtocolVersion, "; use the same release"));
  }
  state->lease = welcome.lease();
  state->welcomed = true;
  spdlog::info("slot {} of run {}: {} x {} in {} groups", welcome.lease().slot(), welcome.run_id(),
               welcome.environments(), welcome.environment(), welcome.groups());
  if (state->environments.empty() || !SameEnvironments(state->made_for, welcome)) {
    state->environments.clear();
    SIBYL_ASSIGN_OR_RETURN(state->environments, MakeEnvironments(welcome));
    state->made_for = welcome;
  }
  return absl::OkStatus();
}

absl::Status StayConnected(const std::string& address, Program& program, ActorMetrics& metrics, ActorState& state,
                           const PlayStream& play) {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), FreshRandom64());
  std::string last_reason;
  const std::stop_token stop = program.stop();
  const std::unique_ptr<Heartbeat> heartbeat = program.heartbeats.Add("playing", kHangs);
  while (!stop.stop_requested()) {
    heartbeat->Beat();
    metrics.connects.Increment();
    state.welcomed = false;
    StreamEnd end;
    {
      // A channel that has failed to connect keeps a backoff of its own, of up to many seconds; a fresh one tries now.
      const auto channel = rpc::MakeChannel(address);
      grpc::ClientContext context;
      // The playing thread may be waiting for the learner.
      const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
      end = play(channel, context, *heartbeat);
    }
    metrics.connected.Set(0);
    if (stop.stop_requested()) break;
    // An error of this process itself: the environment cannot be made, a game failed.
    if (!absl::IsUnavailable(end.own)) return end.own;
    // Before the welcome it is the lease that is stale, if there is one. After the welcome nothing that this process
    // could try is left: its environment is not what the run trains on.
    if (absl::IsFailedPrecondition(end.learner) && state.lease && !state.welcomed) {
      spdlog::info("{}; taking a new lease", end.learner.message());
      state.lease.reset();
      continue;
    }
    if (absl::IsFailedPrecondition(end.learner) || absl::IsInvalidArgument(end.learner)) return end.learner;
    if (end.played) backoff.Reset();
    const absl::Duration wait = backoff.Next();
    const std::string reason = absl::StrCat("learner at ", address, ": ", end.learner.ToString());
    if (reason != last_reason) spdlog::info("{}; trying again", reason);
    last_reason = reason;
    WaitForStop(stop, program.clock, wait);
  }
  return absl::OkStatus();
}

}  // namespace sibyl::actor
