#include "learner/reward_client.h"

#include <grpcpp/grpcpp.h>

#include <deque>

#include "absl/strings/str_cat.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/runtime/stop.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::learner {
namespace {

// Captions in one message, and the pause between two looks for changed ones.
constexpr size_t kCaptionsAMessage = 10'000;
constexpr absl::Duration kPause = absl::Milliseconds(200);
// A client that is silent for this long hangs. gRPC's keep-alive ends a write to a dead peer within 20 s.
constexpr absl::Duration kHangs = absl::Minutes(1);

}  // namespace

struct RewardClient::Connection {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LearnerToRewardModel, v1::RewardModelToLearner>> stream;
  // Under RewardClient::mutex_.
  std::deque<std::vector<uint64_t>> texts_wanted;
  bool ended = false;
};

RewardClient::RewardClient(std::string address, std::string run_id, std::string goal, CaptionTable* captions,
                           ScoreQueue* for_ranks, std::function<uint64_t()> steps, Clock* clock, Heartbeats* heartbeats,
                           std::function<void(absl::Status)> failed, Metrics* metrics)
    : address_(std::move(address)),
      run_id_(std::move(run_id)),
      goal_(std::move(goal)),
      captions_(captions),
      for_ranks_(for_ranks),
      steps_(std::move(steps)),
      clock_(clock),
      incarnation_(FreshRandom64()),
      heartbeats_(heartbeats),
      heartbeat_(heartbeats->Add("reward-client", kHangs)),
      connected_(metrics->Gauge("sibyl_learner_reward_model_connected",
                                "1 while the stream to the reward model is up, else 0.")),
      updates_(metrics->Counter("sibyl_learner_score_updates_total", "Score updates received from the reward model.")),
      worker_(
          "reward-client", [this](const std::stop_token& stop) { return Run(stop); }, std::move(failed)) {}

v1::RewardModelProgress RewardClient::progress() const {
  MutexLock lock(mutex_);
  return progress_;
}

absl::Status RewardClient::Run(const std::stop_token& stop) {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), FreshRandom64());
  std::string last_reason;
  while (!stop.stop_requested()) {
    heartbeat_->Beat();
    bool connected = false;
    const absl::Status status = Follow(stop, &connected);
    connected_.Set(0);
    if (stop.stop_requested()) break;
    if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
      return absl::Status(status.code(),
                          absl::StrCat("the reward model at ", address_, " refuses this learner: ", status.message()));
    }
    const std::string reason = absl::StrCat("reward model at ", address_, ": ", status.ToString());
    if (reason != last_reason) spdlog::warn("{}; training goes on, trying again", reason);
    last_reason = reason;
    if (connected) backoff.Reset();
    WaitForStop(stop, *clock_, backoff.Next());
  }
  return absl::OkStatus();
}

absl::Status RewardClient::Read(const std::stop_token& stop, Connection& connection) {
  const std::unique_ptr<Heartbeat> heartbeat = heartbeats_->Add("reward-reader", kHangs);
  const auto read = [&](v1::RewardModelToLearner* in) {
    heartbeat->Rest();
    const bool there = connection.stream->Read(in);
    heartbeat->Beat();
    return there;
  };
  v1::RewardModelToLearner in;
  while (read(&in)) {
    if (in.has_scores()) {
      // Asked for before the scores are applied: what is not applied comes again.
      if (for_ranks_ != nullptr) {
        heartbeat->Rest();
        const bool room = for_ranks_->WaitForRoom(in.scores(), stop);
        heartbeat->Beat();
        if (!room) break;
      }
      if (const absl::Status applied = captions_->Apply(in.scores(), steps_()); !applied.ok()) {
        spdlog::error("the reward model at {} loses its stream: {}", address_, applied.message());
        connection.context.TryCancel();
        MutexLock lock(mutex_);
        followed_sequence_ = 0;  // it is to send a snapshot next time
        continue;                // Read fails now
      }
      updates_.Increment();
      if (for_ranks_ != nullptr) for_ranks_->Push(in.scores());
      MutexLock lock(mutex_);
      // In the middle of a snapshot there is nothing to go on from.
      followed_sequence_ = in.scores().more() ? 0 : in.scores().sequence();
    } else if (in.has_text_request()) {
      MutexLock lock(mutex_);
      connection.texts_wanted.emplace_back(in.text_request().ids().begin(), in.text_request().ids().end());
      wake_.NotifyAll();
    } else if (in.has_progress()) {
      MutexLock lock(mutex_);
      progress_ = in.progress();
    }
  }
  MutexLock lock(mutex_);
  connection.ended = true;
  wake_.NotifyAll();
  return absl::OkStatus();
}

absl::Status RewardClient::Follow(const std::stop_token& stop, bool* connected) {
  Connection connection;
  // A stop cancels whatever the stream waits for.
  const std::stop_callback cancel(stop, [&] { connection.context.TryCancel(); });
  const auto stub = v1::RewardService::NewStub(rpc::MakeChannel(address_));
  connection.stream = stub->Rewards(&connection.context);
  const absl::Status own = Talk(stop, connection, connected);
  // Where the reward model has ended the stream, its status says why; cancelling would hide it behind CANCELLED.
  if (!own.ok()) connection.context.TryCancel();
  const absl::Status said = rpc::FromGrpc(connection.stream->Finish());
  if (!own.ok()) return own;
  return said.ok() ? absl::UnavailableError("the stream ended") : said;
}

absl::Status RewardClient::Talk(const std::stop_token& stop, Connection& connection, bool* connected) {
  auto& stream = *connection.stream;
  v1::LearnerToRewardModel out;
  {
    MutexLock lock(mutex_);
    v1::LearnerHello* hello = out.mutable_hello();
    hello->set_protocol_version(kProtocolVersion);
    hello->set_run_id(run_id_);
    hello->set_incarnation(incarnation_);
    hello->set_reward_model_incarnation(followed_incarnation_);
    hello->set_last_sequence(followed_sequence_);
    hello->set_goal(goal_);
  }
  v1::RewardModelToLearner in;
  if (!stream.Write(out) || !stream.Read(&in)) return absl::OkStatus();  // the stream's status says why
  if (!in.has_hello()) return absl::InternalError("its first message is not a hello; use the same release");
  *connected = true;
  connected_.Set(1);
  spdlog::info("following reward model {:x} ({})", in.hello().incarnation(), in.hello().kind());
  {
    MutexLock lock(mutex_);
    if (followed_incarnation_ != in.hello().incarnation()) followed_sequence_ = 0;
    followed_incarnation_ = in.hello().incarnation();
  }
  absl::Status reading;
  {
    Worker reader(
        "reward-reader", [&](const std::stop_token& reader_stop) { return Read(reader_stop, connection); },
        [&](absl::Status status) {
          connection.context.TryCancel();
          reading = std::move(status);
          MutexLock lock(mutex_);
          connection.ended = true;
          wake_.NotifyAll();
        });
    Offer(stop, connection);
    if (stop.stop_requested()) connection.context.TryCancel();
    // Waits for the reader: it ends when the reward model, or the line above, has ended the stream.
  }
  return reading;
}

void RewardClient::Offer(const std::stop_token& stop, Connection& connection) {
  v1::LearnerToRewardModel out;
  bool all = true;  // a new stream is offered every caption
  bool ok = true;
  const WakeOnStop wake(stop, mutex_, wake_);
  while (ok && !stop.stop_requested()) {
    heartbeat_->Beat();
    std::deque<std::vector<uint64_t>> wanted;
    {
      MutexLock lock(mutex_);
      if (!all && !connection.ended && connection.texts_wanted.empty()) clock_->WaitFor(wake_, mutex_, kPause);
      if (connection.ended) return;
      wanted.swap(connection.texts_wanted);
    }
    for (const std::vector<uint64_t>& ids : wanted) {
      *out.mutable_texts() = captions_->Texts(ids);
      if (ok && out.texts().texts_size() > 0) ok = connection.stream->Write(out);
    }
    while (ok && !stop.stop_requested()) {
      *out.mutable_counts() = captions_->TakeChanged(all, kCaptionsAMessage);
      all = false;
      out.mutable_counts()->set_step(steps_());
      if (out.counts().id_size() == 0) break;
      ok = connection.stream->Write(out);
      if (out.counts().id_size() < static_cast<int>(kCaptionsAMessage)) break;
    }
  }
}

}  // namespace sibyl::learner
