#pragma once

#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/actor_sink.h"
#include "learner/serving/batching_queue.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/unroll.pb.h"

namespace sibyl::learner {

// Where the answers for one local actor go.
class UnrollSink : public ActorSink {
 public:
  // There is room for the next batch. The weights are the sink's to add.
  virtual void GiveRoom(v1::Room room) = 0;
};

// Turns the batches of local actors into finished unrolls, as Inference does with steps.
//
// Attach, Submit, Detach and Close may be called from any thread; Run is the body of one thread, which owns everything
// else here. An actor is given room when the receiver holds an unroll for each of its environments, so a batch is
// written as soon as it comes. When no unroll is free, room is what waits. An actor has at most one unanswered batch.
class UnrollReceiver {
 public:
  // All pointers outlive this.
  UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, const ExperienceBooks& books,
                 Clock* clock, Metrics* metrics);

  void Attach(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink);
  // False when the batch cannot be queued: the learner is stopping.
  bool Submit(const v1::SlotLease& lease, v1::UnrollBatch batch);
  // The actor is gone: its unrolls are freed, its running episodes counted as abandoned.
  void Detach(const v1::SlotLease& lease);

  // Until Close.
  void Run();
  void Close() { queue_.Close(); }

 private:
  struct Event {
    enum Kind { kAttach, kBatch, kUnrolls, kDetach } kind;
    v1::SlotLease lease;
    std::shared_ptr<UnrollSink> sink;
    v1::UnrollBatch batch;
    Unrolls unrolls;
  };
  struct Actor {
    v1::SlotLease lease;
    std::shared_ptr<UnrollSink> sink;
    UnrollWriter writer;
    Unrolls room;        // for the next batch: none, or one unroll for each environment
    bool waits = false;  // for room
    uint64_t batches = 0;
    // Where the policy is told what captions are worth: what the actor knows of the captions that it has mentioned.
    absl::flat_hash_map<uint64_t, float> told;
    bool forget = false;  // `told` was emptied
  };

  void Handle(Event& event);
  void Forget(const v1::SlotLease& lease);
  void RequestRoom(Actor& actor);
  void GiveRoom(Actor& actor, Unrolls unrolls);
  // Adds to `room` the captions whose reward the actor does not know.
  void TellCaptions(Actor& actor, v1::Room* room);
  void NoteCaptions(Actor& actor, const v1::StepBatch& step);
  absl::Status Check(const Actor& actor, const v1::UnrollBatch& batch) const;
  absl::Status Take(Actor& actor, const v1::UnrollBatch& batch);

  const UnrollColumns columns_;
  const v1::EnvironmentSpec spec_;
  const Feedback feedback_;
  const ExperienceBooks books_;
  Clock* const clock_;
  BatchingQueue<Event> queue_;

  // The receiver thread's own.
  absl::flat_hash_map<uint32_t, std::unique_ptr<Actor>> actors_;  // by slot
  int waiting_ = 0;                                               // actors that wait for room

  prometheus::Counter& batches_counter_;
  prometheus::Counter& seconds_counter_;
  prometheus::Counter& starved_seconds_;
};

}  // namespace sibyl::learner
