#include "learner/reward_client.h"

#include <grpcpp/grpcpp.h>

#include <deque>

#include "absl/strings/str_cat.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::learner {
namespace {

// Captions in one message, and the pause between two looks for changed ones.
constexpr size_t kCaptionsAMessage = 10'000;
constexpr auto kPause = std::chrono::milliseconds(200);

}  // namespace

struct RewardClient::Connection {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LearnerToRewardModel, v1::RewardModelToLearner>> stream;
  // Under RewardClient::mutex_.
  std::deque<std::vector<uint64_t>> texts_wanted;
  bool ended = false;
};

RewardClient::RewardClient(std::string address, std::string run_id, std::string goal, CaptionTable* captions,
                           std::function<uint64_t()> steps, Shutdown* shutdown, Metrics* metrics)
    : address_(std::move(address)),
      run_id_(std::move(run_id)),
      goal_(std::move(goal)),
      captions_(captions),
      steps_(std::move(steps)),
      shutdown_(shutdown),
      incarnation_(FreshRandom64()),
      connected_(metrics->Gauge("sibyl_learner_reward_model_connected",
                                "1 while the stream to the reward model is up, else 0.")),
      updates_(metrics->Counter("sibyl_learner_score_updates_total", "Score updates received from the reward model.")),
      thread_([this] {
        NameThread("reward-client");
        Run();
      }) {}

RewardClient::~RewardClient() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    if (open_ != nullptr) open_->TryCancel();
    wake_.NotifyAll();
  }
  thread_.join();
}

v1::RewardModelProgress RewardClient::progress() const {
  MutexLock lock(mutex_);
  return progress_;
}

void RewardClient::KeepUpdates() {
  MutexLock lock(mutex_);
  keeps_updates_ = true;
}

void RewardClient::TakeUpdates(google::protobuf::RepeatedPtrField<v1::ScoreUpdate>* updates) {
  MutexLock lock(mutex_);
  updates->Swap(&kept_updates_);
  kept_updates_.Clear();
}

void RewardClient::Run() {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), FreshRandom64());
  std::string last_reason;
  while (!stop_) {
    bool connected = false;
    const absl::Status status = Follow(&connected);
    connected_.Set(0);
    if (stop_) return;
    if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
      shutdown_->Fail(
          absl::Status(status.code(), absl::StrCat("the reward model at ", address_, " refuses: ", status.message())));
      return;
    }
    const std::string reason = absl::StrCat("reward model at ", address_, ": ", status.ToString());
    if (reason != last_reason) spdlog::info("{}; training goes on, trying again", reason);
    last_reason = reason;
    if (connected) backoff.Reset();
    const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(backoff.Next());
    MutexLock lock(mutex_);
    while (!stop_ && std::chrono::steady_clock::now() < until) {
      wake_.WaitFor(mutex_, std::min<std::chrono::nanoseconds>(kPause, until - std::chrono::steady_clock::now()));
    }
  }
}

void RewardClient::Read(Connection& connection) {
  v1::RewardModelToLearner in;
  while (connection.stream->Read(&in)) {
    if (in.has_scores()) {
      captions_->Apply(in.scores(), steps_());
      updates_.Increment();
      MutexLock lock(mutex_);
      if (keeps_updates_) *kept_updates_.Add() = in.scores();
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
}

absl::Status RewardClient::Follow(bool* connected) {
  const auto stub = v1::RewardService::NewStub(rpc::MakeChannel(address_));
  Connection connection;
  {
    MutexLock lock(mutex_);
    if (stop_) return absl::CancelledError();
    open_ = &connection.context;
  }
  const absl::Status status = Talk(*stub, connection, connected);
  MutexLock lock(mutex_);
  open_ = nullptr;
  return status;
}

absl::Status RewardClient::Talk(v1::RewardService::Stub& stub, Connection& connection, bool* connected) {
  connection.stream = stub.Rewards(&connection.context);
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
  if (!stream.Write(out) || !stream.Read(&in) || !in.has_hello()) {
    connection.context.TryCancel();
    return rpc::FromGrpc(stream.Finish());
  }
  *connected = true;
  connected_.Set(1);
  spdlog::info("following reward model {:x} ({})", in.hello().incarnation(), in.hello().kind());
  {
    MutexLock lock(mutex_);
    if (followed_incarnation_ != in.hello().incarnation()) followed_sequence_ = 0;
    followed_incarnation_ = in.hello().incarnation();
  }
  std::thread reader([&] {
    NameThread("reward-reader");
    Read(connection);
  });
  bool all = true;  // a new stream is offered every caption
  bool ok = true;
  while (ok && !stop_) {
    std::deque<std::vector<uint64_t>> wanted;
    {
      MutexLock lock(mutex_);
      if (connection.ended) break;
      if (!all && connection.texts_wanted.empty()) wake_.WaitFor(mutex_, kPause);
      wanted.swap(connection.texts_wanted);
    }
    for (const std::vector<uint64_t>& ids : wanted) {
      *out.mutable_texts() = captions_->Texts(ids);
      if (ok && out.texts().texts_size() > 0) ok = stream.Write(out);
    }
    while (ok && !stop_) {
      *out.mutable_counts() = captions_->TakeChanged(all, kCaptionsAMessage);
      all = false;
      out.mutable_counts()->set_step(steps_());
      if (out.counts().id_size() == 0) break;
      ok = stream.Write(out);
      if (out.counts().id_size() < static_cast<int>(kCaptionsAMessage)) break;
    }
  }
  connection.context.TryCancel();
  reader.join();
  return rpc::FromGrpc(stream.Finish());
}

}  // namespace sibyl::learner
