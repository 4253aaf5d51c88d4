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
  // Asks for the next batch: all before have been taken, and there are unrolls for it. The sink adds the weights.
  virtual void RequestBatch(v1::BatchRequest request) = 0;
};

// An actor that holds the policy itself.
struct LocalActor : ServedActor<UnrollSink> {
  Unrolls next = {};     // for the next batch: none, or one unroll for each environment
  uint64_t batches = 0;  // taken so far
  // Where the policy is told caption rewards: the rewards that the actor knows, of the captions that it has mentioned.
  absl::flat_hash_map<uint64_t, float> told = {};
  bool forget = false;  // `told` was emptied
};

// Turns the batches of local actors into finished unrolls, as Inference does with steps. Threads: see ActorLoop.
//
// A batch is requested when the receiver holds an unroll for each of the actor's environments, so the batch is written
// as soon as it comes. When no unroll is free, the request is what waits. An actor has at most one unanswered batch.
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

  void TakeUnrolls(LocalActor& actor);
  // Adds to `request` the captions whose reward the actor does not know.
  void TellCaptions(LocalActor& actor, v1::BatchRequest* request);
  void NoteCaptions(LocalActor& actor, const v1::StepBatch& step);
  absl::Status Check(const LocalActor& actor, const v1::UnrollBatch& batch) const;
  absl::Status Take(LocalActor& actor, const v1::UnrollBatch& batch);

  const UnrollColumns columns_;
  const v1::EnvironmentSpec spec_;
  const Feedback feedback_;
  prometheus::Counter& batches_counter_;
};

}  // namespace sibyl::learner
