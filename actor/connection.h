#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "actor/player.h"
#include "common/metrics.h"
#include "common/rpc/status.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/program.h"
#include "sibyl/v1/act.pb.h"

// What both kinds of actors share: how they reach the learner, and what they keep when they lose it.

namespace sibyl::actor {

// Any thread.
struct ActorMetrics {
  explicit ActorMetrics(Metrics& metrics);
  prometheus::Counter& steps;
  prometheus::Counter& episodes;
  prometheus::Counter& cut_captions;
  prometheus::Counter& connects;
  prometheus::Counter& sent_bytes;
  prometheus::Gauge& connected;
  prometheus::Gauge& text_bytes;
};

// What the actor takes from one stream to the next.
struct ActorState {
  std::optional<v1::SlotLease> lease;
  EnvironmentGroups environments;                          // as long as the learner asks for the same
  v1::ActorWelcome made_for;                               // the welcome that asked for `environments`
  bool welcomed = false;                                   // on the present stream
};

// The first message of a stream.
v1::ActorHello Hello(const ActorState& state);
// Stores the lease, and makes the environments that the welcome asks for. FailedPrecondition: the learner speaks another
// protocol. Otherwise errors of MakeEnvironment.
absl::Status Accept(const v1::ActorWelcome& welcome, ActorState* state);

// How one stream ended.
struct StreamEnd {
  // Unavailable (Lost): the learner or the connection ended it. Anything else is this process's own error, and final.
  absl::Status own;
  absl::Status learner;  // the status that the learner ended it with
  bool played = false;
};
inline absl::Status Lost() { return absl::UnavailableError("the stream ended"); }

// Reads the learner's next message, for as long as it takes.
template <typename Out, typename In>
bool ReadNext(grpc::ClientReaderWriter<Out, In>& stream, Heartbeat& heartbeat, In* in) {
  heartbeat.Rest();
  const bool read = stream.Read(in);
  heartbeat.Beat();
  return read;
}

// The end of a stream on which nobody reads or writes any more.
template <typename Out, typename In>
StreamEnd EndOf(grpc::ClientReaderWriter<Out, In>& stream, grpc::ClientContext& context, absl::Status own,
                bool played) {
  // Where the learner has ended the stream, its status says why; cancelling would hide that.
  if (!absl::IsUnavailable(own)) context.TryCancel();
  In rest;
  while (stream.Read(&rest)) {
  }
  return {std::move(own), rpc::FromGrpc(stream.Finish()), played};
}

// Opens a stream on the channel, speaks on it to its end, and says how it ended. The loop beats while it works, and
// rests while it waits for the learner.
using PlayStream =
    std::function<StreamEnd(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context, Heartbeat&)>;

// Calls `play` on the calling thread until the program's stop is requested. After a lost stream it waits with jittered
// backoff, at most a second. A stop cancels the context.
//
// OK: the program was told to stop. An error: another try would fail alike. It is this process's own, or the learner's
// refusal: InvalidArgument, or FailedPrecondition on a stream that was welcomed or that offered no lease.
// FailedPrecondition in answer to a lease means that the lease is stale; the actor then asks for a new one.
absl::Status StayConnected(const std::string& address, Program& program, ActorMetrics& metrics, ActorState& state,
                           const PlayStream& play);

}  // namespace sibyl::actor
