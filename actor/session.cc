#include "actor/session.h"

#include "actor/connection.h"
#include "actor/player.h"
#include "common/status_macros.h"
#include "sibyl/v1/act.grpc.pb.h"

namespace sibyl::actor {
namespace {

using Stream = grpc::ClientReaderWriter<v1::ActorMessage, v1::LearnerMessage>;

// Speaks on a fresh stream to its end.
absl::Status Play(Stream& stream, ActorState& state, ActorMetrics& metrics, Heartbeat& heartbeat, bool* played) {
  v1::ActorMessage out;
  v1::LearnerMessage in;
  *out.mutable_hello() = Hello(state);
  if (!stream.Write(out) || !ReadNext(stream, heartbeat, &in)) return Lost();
  if (!in.has_welcome()) return absl::InternalError("the learner's first message is not a welcome");
  const v1::ActorWelcome welcome = in.welcome();
  SIBYL_RETURN_IF_ERROR(Accept(welcome, &state));
  *out.mutable_ready()->mutable_environment() = state.environments.front()->spec();
  if (!stream.Write(out)) return Lost();

  Player player(welcome, &state.environments);
  std::vector<StepPacker> packers(player.groups(), StepPacker(welcome.codec()));
  const auto send = [&] {
    metrics.sent_bytes.Increment(static_cast<double>(out.ByteSizeLong()));
    return stream.Write(out);
  };
  for (int group = 0; group < player.groups(); ++group) {
    out.mutable_step()->Clear();
    SIBYL_RETURN_IF_ERROR(player.Start(group, out.mutable_step()));
    packers[group].Pack(player, out.mutable_step());
    if (!send()) return Lost();
  }
  metrics.connected.Set(1);
  uint64_t steps = 0, episodes = 0, cut_captions = 0;
  while (ReadNext(stream, heartbeat, &in)) {
    *played = true;
    if (in.has_actions()) {
      out.mutable_step()->Clear();
      SIBYL_RETURN_IF_ERROR(player.Step(in.actions(), out.mutable_step()));
      packers[in.actions().group()].Pack(player, out.mutable_step());
      if (!send()) break;
      metrics.steps.Increment(static_cast<double>(player.steps() - steps));
      metrics.episodes.Increment(static_cast<double>(player.episodes() - episodes));
      metrics.cut_captions.Increment(static_cast<double>(player.cut_captions() - cut_captions));
      steps = player.steps();
      episodes = player.episodes();
      cut_captions = player.cut_captions();
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

absl::Status PlayFor(const std::string& address, Program& program) {
  ActorMetrics metrics(program.metrics);
  ActorState state;
  return StayConnected(
      address, program, metrics, state,
      [&](const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context, Heartbeat& heartbeat) {
        const auto stub = v1::ActService::NewStub(channel);
        const auto stream = stub->Act(&context);
        bool played = false;
        const absl::Status own = Play(*stream, state, metrics, heartbeat, &played);
        return EndOf(*stream, context, own, played);
      });
}

}  // namespace sibyl::actor
