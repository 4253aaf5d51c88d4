#pragma once

#include <grpcpp/support/status.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "learner/experience/unroll_pool.h"
#include "learner/serving/slots.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

class ActorStream;

// The streams of all actors, of either service, by the slot they hold. Unrolls grow and shrink with them. Any thread.
class ActorStreams {
 public:
  // All pointers outlive this.
  ActorStreams(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, std::string run_id, Slots* slots,
               UnrollPool* unrolls, Clock* clock, Metrics* metrics);

  // Before the stream begins. False after CloseAll: the stream is to be ended at once, with Stopping().
  bool Open(std::shared_ptr<ActorStream> stream);
  static grpc::Status Stopping();
  // Ends the streams of actors that have owed something, a hello included, for longer than actor.silence_seconds. Call
  // about once a second.
  void CloseSilent();
  // Refuses new streams and ends those there are: actors reconnect elsewhere or later.
  void CloseAll();

  const v1::Experiment& experiment() const { return experiment_; }

 private:
  friend class ActorStream;
  // The stream has said hello and holds its slot.
  void Register(uint32_t slot, std::shared_ptr<ActorStream> stream);
  void Forget(const ActorStream* stream);
  // Gives the pool room for the actors that hold a slot.
  void FitPool() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::Experiment experiment_;
  const v1::EnvironmentSpec spec_;
  const std::string run_id_;
  Slots* const slots_;
  UnrollPool* const unrolls_;
  Clock* const clock_;
  prometheus::Gauge& connected_;
  prometheus::Counter& streams_;
  prometheus::Counter& refused_;
  prometheus::Counter& silent_;

  Mutex mutex_;
  absl::flat_hash_map<uint32_t, std::shared_ptr<ActorStream>> by_slot_ ABSL_GUARDED_BY(mutex_);
  // Streams that have not said hello yet.
  absl::flat_hash_set<std::shared_ptr<ActorStream>> greeting_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// One actor's stream, whatever it plays by: greeting, slot and lease, episode numbers, silence. A subclass is also an
// rpc::ServerStream; what is protected is for its OnMessage and OnEnd, the rest for any thread.
class ActorStream {
 public:
  virtual ~ActorStream() = default;

  // Ends the stream.
  virtual void End(const grpc::Status& status) = 0;
  // The actor broke the contract: ends its stream with the reason, which names the actor.
  void Refuse(const absl::Status& status);
  // It is the actor's turn, and it has been for longer than `limit`.
  bool SilentFor(absl::Duration limit) const;
  uint32_t slot() const { return lease_.slot(); }
  // "actor HOST:PID in slot N", as far as it is known.
  std::string description() const ABSL_LOCKS_EXCLUDED(mutex_);

 protected:
  explicit ActorStream(ActorStreams* streams) : streams_(streams) { Touch(); }

  // Takes a slot for the actor; the welcome that answers. `self` is this.
  absl::StatusOr<v1::ActorWelcome> Greet(const v1::ActorHello& hello, std::shared_ptr<ActorStream> self);
  // The actor made its environments: from here on it plays.
  absl::Status BeginPlaying(const v1::ActorReady& ready);
  bool playing() const { return expects_ == Expects::kSteps; }
  // The next block of episode numbers, when half of the last one is used up. `first_episode` as in StepBatch.
  absl::StatusOr<std::optional<v1::EpisodeBlock>> MoreEpisodes(const std::string& first_episode);
  // The actor was heard, or got its turn.
  void Touch();
  // Frees the slot. Last of all.
  void Leave();
  const v1::SlotLease& lease() const { return lease_; }

 private:
  // The actor has to send something now.
  virtual bool Owes() const = 0;

  enum class Expects { kHello, kReady, kSteps };

  ActorStreams* const streams_;
  std::atomic<int64_t> last_heard_micros_;
  mutable Mutex mutex_;
  std::string name_ ABSL_GUARDED_BY(mutex_) = "?";
  int64_t slot_ ABSL_GUARDED_BY(mutex_) = -1;
  // Written by Greet before the stream is registered under its slot, and constant from then on.
  v1::SlotLease lease_;
  Expects expects_ = Expects::kHello;
  uint64_t last_episode_ = 0;
};

}  // namespace sibyl::learner
