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
#include "common/runtime/program.h"
#include "sibyl/v1/act.pb.h"

// What both kinds of actors do alike: how they reach the learner, and what they keep when they lose it.

namespace sibyl::actor {

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

// What a process keeps between streams: its lease, and its environments as long as the learner asks for the same.
struct Kept {
  std::optional<v1::SlotLease> lease;
  EnvironmentGroups environments;
  v1::ActorWelcome made_for;
  bool welcomed = false;  // on the present stream
};

v1::ActorHello Hello(const Kept& kept);
// Keeps the lease, and makes the environments that the welcome asks for. FailedPrecondition: the learner speaks another
// protocol; errors of MakeEnvironment.
absl::Status Accept(const v1::ActorWelcome& welcome, Kept* kept);

// How one stream ended.
struct StreamEnd {
  // Unavailable (Lost): the learner or the connection ended it. Anything else is this process's own error, and final.
  absl::Status own;
  absl::Status learner;  // the status that the learner ended it with
  bool played = false;
};
inline absl::Status Lost() { return absl::UnavailableError("the stream ended"); }

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

// Calls `play`, which opens a stream and speaks on it to its end, again and again until the program's stop is
// requested, with jittered backoff whenever the stream is lost. The stop cancels the context. OK after a stop. An error
// when going on is pointless: this process's own, or a refusal by the learner that another try would meet again.
absl::Status StayConnected(
    const std::string& address, Program& program, ActorMetrics& metrics, Kept& kept,
    const std::function<StreamEnd(const std::shared_ptr<grpc::Channel>&, grpc::ClientContext&)>& play);

}  // namespace sibyl::actor
