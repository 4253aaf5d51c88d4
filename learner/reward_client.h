#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/shutdown.h"
#include "learner/experience/caption_table.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::learner {

// Keeps a stream to the reward model: captions and counts out, scores into the caption table. Reconnects with jittered
// backoff; while it is away, training goes on with the scores there are. A refusal that repeating cannot change
// (another protocol, run or goal) fails the process.
class RewardClient {
 public:
  // `steps` gives the run's environment steps; called from the client's threads. Everything outlives this.
  RewardClient(std::string address, std::string run_id, std::string goal, CaptionTable* captions,
               std::function<uint64_t()> steps, Shutdown* shutdown, Metrics* metrics);
  // Ends the stream.
  ~RewardClient();

  // From now on keeps the updates that TakeUpdates gives.
  void KeepUpdates();
  // The reward model's updates since the last call, in order, for ranks that do not follow it themselves. Any thread.
  void TakeUpdates(google::protobuf::RepeatedPtrField<v1::ScoreUpdate>* updates);

  // What the reward model last said of itself. Any thread.
  v1::RewardModelProgress progress() const;

 private:
  struct Connection;
  void Run();
  // One stream, until it ends.
  absl::Status Follow(bool* connected);
  absl::Status Talk(v1::RewardService::Stub& stub, Connection& connection, bool* connected);
  void Read(Connection& connection);

  const std::string address_, run_id_, goal_;
  CaptionTable* const captions_;
  const std::function<uint64_t()> steps_;
  Shutdown* const shutdown_;
  const uint64_t incarnation_;
  prometheus::Gauge& connected_;
  prometheus::Counter& updates_;

  std::atomic<bool> stop_ = false;
  mutable Mutex mutex_;
  CondVar wake_;
  grpc::ClientContext* open_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the stream's, to cancel it
  v1::RewardModelProgress progress_ ABSL_GUARDED_BY(mutex_);
  bool keeps_updates_ ABSL_GUARDED_BY(mutex_) = false;
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> kept_updates_ ABSL_GUARDED_BY(mutex_);
  uint64_t followed_incarnation_ ABSL_GUARDED_BY(mutex_) = 0, followed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace sibyl::learner
