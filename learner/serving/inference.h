#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/actor_loop.h"
#include "learner/serving/actor_sink.h"
#include "learner/serving/policy_store.h"
#include "learner/serving/recurrent_states.h"
#include "policy/sampler.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

// Where the actions for one actor go.
class ActionSink : public ActorSink {
 public:
  virtual void SendActions(v1::ActionBatch actions) = 0;
};

// An actor whose actions inference chooses.
struct InferenceActor : ServedActor<ActionSink> {
  int64_t states;  // block of Inference::states_
};

// Turns steps into actions and unrolls. It batches what all actors sent (a size or a deadline, whichever comes first),
// has each step written into its environment's unroll, runs the policy, draws actions, and answers.
//
// An actor has at most one unanswered StepBatch a group. A group whose unrolls end waits here for new ones until
// training has released some: so a slow learner slows its actors. Threads: see ActorLoop.
class Inference : public ActorLoop<InferenceActor, v1::StepBatch> {
 public:
  // `seed` decides the actions that are drawn. All pointers outlive this.
  Inference(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, torch::Device device, uint64_t seed,
            PolicyStore* policies, const ExperienceBooks& books, Clock* clock, Heartbeats* heartbeats,
            Metrics* metrics);

 private:
  struct Turn {  // of a group whose observations wait for actions
    InferenceActor* actor;
    uint32_t group;
    uint64_t sequence;  // of the step that brought them
  };
  struct Array {  // of an observation
    size_t offset, bytes;
  };

  Wait NextWait(absl::Time now) override;
  std::unique_ptr<InferenceActor> MakeActor(const v1::SlotLease& lease, std::shared_ptr<ActionSink> sink) override;
  absl::Status OnMessage(InferenceActor& actor, const v1::StepBatch& batch) override;
  void OnUnrolls(InferenceActor& actor, uint32_t group, Unrolls unrolls) override;
  void OnForget(InferenceActor& actor) override;
  absl::Status AfterEvents() override;

  // Events after which an inference batch is as large as it can become.
  size_t EventsForABatch() const;
  // How long to hold the groups whose steps have come. While a group waits for unrolls, everybody waits for training:
  // groups that stay in step with one another make larger batches, which cost fewer CPU seconds, and play with newer
  // weights. 0: act now.
  absl::Duration HoldFor(absl::Time now);
  // Copies what the group is to act on into the rows that the policy reads, from row `first_row` on.
  void Stage(const Turn& turn, int64_t first_row);
  // Runs the policy over the oldest turns, as many as make a batch, and answers.
  absl::Status Act();

  const int environments_, groups_, group_rows_, max_rows_;
  const absl::Duration wait_;
  const v1::EnvironmentSpec spec_;
  const Feedback feedback_;
  const v1::EnvironmentSpec policy_spec_;
  const size_t action_bytes_;
  std::vector<Array> arrays_;
  const torch::Device device_;
  PolicyStore* const policies_;

  // The inference thread's own.
  std::deque<Turn> turns_;
  absl::Time held_since_ = absl::InfiniteFuture();
  RecurrentStates states_;
  // What the policy reads, with room for the largest batch so far.
  std::vector<std::string> staged_;    // by observation array: [rows, bytes of it]
  std::string staged_first_;           // bool [rows]
  std::vector<int64_t> staged_state_;  // [rows] row of states_
  Sampler sampler_;
  Sample sample_;
  std::vector<uint64_t> textless_;

  prometheus::Counter& batches_counter_;
  prometheus::Histogram& batch_rows_;
};

}  // namespace sibyl::learner
