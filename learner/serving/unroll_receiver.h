#pragma once

#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/actor_loop.h"
#include "learner/serving/actor_sink.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/unroll.pb.h"

namespace sibyl::learner {

// Where the answers for one local actor go.
class UnrollSink : public ActorSink {
 public:
  // There is room for the next batch. The weights are the sink's to add.
  virtual void GiveRoom(v1::Room room) = 0;
};

// An actor that holds the policy itself.
struct LocalActor : ServedActor<UnrollSink> {
  Unrolls room;  // for the next batch: none, or one unroll for each environment
  uint64_t batches = 0;
  // Where the policy is told what captions are worth: what the actor knows of the captions that it has mentioned.
  absl::flat_hash_map<uint64_t, float> told;
  bool forget = false;  // `told` was emptied
};

// Turns the batches of local actors into finished unrolls, as Inference does with steps. Threads: see ActorLoop.
//
// An actor is given room when the receiver holds an unroll for each of its environments, so a batch is written as soon
// as it comes. When no unroll is free, room is what waits. An actor has at most one unanswered batch.
class UnrollReceiver : public ActorLoop<LocalActor, v1::UnrollBatch> {
 public:
  // All pointers outlive this.
  UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, const ExperienceBooks& books,
                 Clock* clock, Heartbeats* heartbeats, Metrics* metrics);

 private:
  std::unique_ptr<LocalActor> MakeActor(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink) override;
  absl::Status OnMessage(LocalActor& actor, const v1::UnrollBatch& batch) override;
  void OnUnrolls(LocalActor& actor, uint32_t group, Unrolls unrolls) override;
  void OnForget(LocalActor& actor) override;

  void RequestRoom(LocalActor& actor);
  // Adds to `room` the captions whose reward the actor does not know.
  void TellCaptions(LocalActor& actor, v1::Room* room);
  void NoteCaptions(LocalActor& actor, const v1::StepBatch& step);
  absl::Status Check(const LocalActor& actor, const v1::UnrollBatch& batch) const;
  absl::Status Take(LocalActor& actor, const v1::UnrollBatch& batch);

  const UnrollColumns columns_;
  const v1::EnvironmentSpec spec_;
  const Feedback feedback_;
  prometheus::Counter& batches_counter_;
};

}  // namespace sibyl::learner
