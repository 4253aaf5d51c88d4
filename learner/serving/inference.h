#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/actor_sink.h"
#include "learner/serving/batching_queue.h"
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

// Turns steps into actions and unrolls: batches what all actors sent (a size or a deadline, whichever comes first),
// has each step written into its environment's unroll, runs the policy, samples, and answers.
//
// Attach, Submit, Detach and Close may be called from any thread; Run is the body of one thread, which owns everything
// else here. An actor has at most one unanswered StepBatch a group. A group whose unrolls end waits here for new ones
// until training has released some: so a slow learner slows its actors.
class Inference {
 public:
  // `seed` decides the actions that are drawn. All pointers outlive this.
  Inference(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, torch::Device device, uint64_t seed,
            PolicyStore* policies, const ExperienceBooks& books, Clock* clock, Metrics* metrics);

  void Attach(const v1::SlotLease& lease, std::shared_ptr<ActionSink> sink);
  // False when the step cannot be queued: the learner is stopping.
  bool Submit(const v1::SlotLease& lease, v1::StepBatch batch);
  // The actor is gone: its unfinished unrolls are freed, its running episodes counted as abandoned.
  void Detach(const v1::SlotLease& lease);

  // Until Close. An error is final: the process cannot do its job.
  absl::Status Run();
  void Close() { queue_.Close(); }

 private:
  struct Event {
    enum Kind { kAttach, kStep, kUnrolls, kDetach } kind;
    v1::SlotLease lease;
    std::shared_ptr<ActionSink> sink;
    v1::StepBatch batch;
    uint32_t group = 0;  // kUnrolls
    Unrolls unrolls;     // kUnrolls
  };
  struct Actor {
    v1::SlotLease lease;
    std::shared_ptr<ActionSink> sink;
    UnrollWriter writer;
    int64_t states;   // block of states_
    int waiting = 0;  // groups that wait for unrolls
  };
  struct Turn {  // of a group whose observations wait for actions
    Actor* actor;
    uint32_t group;
    uint64_t sequence;  // of the step that brought them
  };
  struct Array {  // of an observation
    size_t offset, bytes;
  };

  // Events after which an inference batch is as large as it can become.
  size_t Wanted() const;
  // How long to hold the groups whose steps have come. While a group waits for unrolls, everybody waits for training:
  // groups that stay in step with one another make larger batches, which cost fewer CPU seconds, and play with newer
  // weights. 0: act now.
  absl::Duration HoldFor(absl::Time now);
  void Handle(Event& event);
  absl::Status HandleStep(Actor& actor, const v1::StepBatch& batch);
  void Forget(const v1::SlotLease& lease);
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
  const ExperienceBooks books_;
  Clock* const clock_;
  BatchingQueue<Event> queue_;

  // The inference thread's own.
  absl::flat_hash_map<uint32_t, std::unique_ptr<Actor>> actors_;  // by slot
  std::deque<Turn> turns_;
  int waiting_ = 0;  // groups of all actors that wait for unrolls
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
  prometheus::Counter& seconds_counter_;
  prometheus::Counter& starved_seconds_;
};

}  // namespace sibyl::learner
