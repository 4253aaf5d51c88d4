#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/worker.h"
#include "learner/experience/caption_table.h"
#include "learner/score_queue.h"
#include "sibyl/v1/reward.grpc.pb.h"

namespace sibyl::learner {

// Keeps a stream to the reward model. It sends captions and counts, and applies the scores that come to the caption
// table. It reconnects with jittered backoff; training goes on meanwhile with the scores that it has. A refusal that
// another try would meet again (protocol, run or goal differ) ends the process with the reason.
//
// Threads: "reward-client" writes. "reward-reader" reads while a stream is open.
class RewardClient {
 public:
  // `steps` gives the run's environment steps; called from the client's threads. `for_ranks` takes every update, for
  // ranks that do not follow the reward model themselves; nullptr: there are none. `failed` is called at most once,
  // when the client has given up. Everything outlives this.
  RewardClient(std::string address, std::string run_id, std::string goal, CaptionTable* captions, ScoreQueue* for_ranks,
               std::function<uint64_t()> steps, Clock* clock, Heartbeats* heartbeats,
               std::function<void(absl::Status)> failed, Metrics* metrics);

  // The last progress that the reward model has told. Any thread.
  v1::RewardModelProgress progress() const;

 private:
  struct Connection;
  absl::Status Run(const std::stop_token& stop);
  // One stream, until it ends; the status that it ended with. `connected`: the reward model has answered.
  absl::Status Follow(const std::stop_token& stop, bool* connected);
  absl::Status Talk(const std::stop_token& stop, Connection& connection, bool* connected);
  // Sends texts that were asked for, and captions whose counts changed, until the stream or the process ends.
  void Offer(const std::stop_token& stop, Connection& connection);
  absl::Status Read(const std::stop_token& stop, Connection& connection);

  const std::string address_, run_id_, goal_;
  CaptionTable* const captions_;
  ScoreQueue* const for_ranks_;
  const std::function<uint64_t()> steps_;
  Clock* const clock_;
  const uint64_t incarnation_;
  Heartbeats* const heartbeats_;
  const std::unique_ptr<Heartbeat> heartbeat_;  // of "reward-client"
  prometheus::Gauge& connected_;
  prometheus::Counter& updates_;

  mutable Mutex mutex_;
  CondVar wake_;
  v1::RewardModelProgress progress_ ABSL_GUARDED_BY(mutex_);
  uint64_t followed_incarnation_ ABSL_GUARDED_BY(mutex_) = 0, followed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  Worker worker_;
};

}  // namespace sibyl::learner
