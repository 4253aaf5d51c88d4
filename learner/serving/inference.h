#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/tensor_packing.h"
#include "learner/experience/caption_table.h"
#include "learner/experience/episode_stats.h"
#include "learner/experience/step_counter.h"
#include "learner/experience/unroll_pool.h"
#include "learner/serving/policy_store.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

// Where the actions for one actor go. Calls come from the inference thread and must not block.
class ActionSink {
 public:
  virtual ~ActionSink() = default;
  virtual void SendActions(v1::ActionBatch actions) = 0;
  virtual void RequestTexts(v1::CaptionTextRequest request) = 0;
  // The actor broke the contract: end its stream.
  virtual void Refuse(const absl::Status& status) = 0;
};

// Turns steps into actions and unrolls: batches what all actors sent (a size or a deadline, whichever comes first),
// writes each step into its environment's unroll, runs the policy, samples, and answers.
//
// Attach, Submit, Detach and Close may be called from any thread; Run is the body of one thread, which owns everything
// else here. An actor has at most one unanswered StepBatch a group, so the queue is bounded by the actors.
// When no unroll is free, steps wait here until training has released some: so a slow learner slows its actors.
class Inference {
 public:
  // All pointers outlive this.
  Inference(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, torch::Device device,
            PolicyStore* policies, UnrollPool* unrolls, CaptionTable* captions, EpisodeStats* episodes,
            StepCounter* steps, Metrics* metrics);

  void Attach(const v1::SlotLease& lease, std::shared_ptr<ActionSink> sink);
  void Submit(const v1::SlotLease& lease, v1::StepBatch batch);
  // The actor is gone: its unfinished unrolls are freed, its running episodes counted as abandoned.
  void Detach(const v1::SlotLease& lease);

  // Until Close. An error is final: the process cannot do its job.
  absl::Status Run();
  void Close();

 private:
  struct Event {
    enum Kind { kAttach, kStep, kDetach } kind;
    v1::SlotLease lease;
    std::shared_ptr<ActionSink> sink;
    v1::StepBatch batch;
  };
  struct Place {  // of one environment
    int unroll = -1;
    int t = 0;  // o_t is in the unroll, and its action is being played
    bool playing = false;
    uint64_t episode = 0;
  };
  struct Actor {
    v1::SlotLease lease;
    std::shared_ptr<ActionSink> sink;
    std::vector<ObservationUnpacker> unpackers;  // by group
    ObservationUnpacker final_unpacker;
    std::vector<uint64_t> next_sequence;  // by group
    std::vector<Place> places;            // by environment
  };
  struct Row {  // of an inference batch
    Actor* actor;
    int environment;
  };
  struct Answer {  // to a step that was decoded
    Actor* actor;
    uint32_t group;
    uint64_t sequence;
  };
  struct Array {  // of an observation
    size_t offset, bytes;
  };

  void Push(Event event);
  // Waits for work; moves steps into pending_, handles the rest. False once closed.
  bool Gather();
  void HandleDetach(const v1::SlotLease& lease);
  absl::Status CheckStep(const Actor& actor, const v1::StepBatch& batch) const;
  int UnrollsNeeded(const Actor& actor, const v1::StepBatch& batch) const;
  // Writes a group's step into its unrolls and adds its rows to the inference batch.
  absl::Status Decode(Actor& actor, const v1::StepBatch& batch, const std::vector<int>& fresh_unrolls);
  // Runs the policy over the rows that were decoded, and answers.
  absl::Status Act();
  int64_t StateRow(const Row& row) const;

  const int unroll_length_, environments_, groups_, group_rows_, max_rows_;
  const std::chrono::nanoseconds wait_;
  const v1::EnvironmentSpec spec_;
  const size_t observation_bytes_;
  std::vector<Array> arrays_;
  const torch::Device device_;
  PolicyStore* const policies_;
  UnrollPool* const unrolls_;
  CaptionTable* const captions_;
  EpisodeStats* const episodes_;
  StepCounter* const steps_;

  Mutex mutex_;
  CondVar arrived_;
  std::deque<Event> incoming_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point first_arrival_ ABSL_GUARDED_BY(mutex_);  // of incoming_'s
  size_t wake_at_ ABSL_GUARDED_BY(mutex_) = 1;  // how many of incoming_ the inference thread waits for
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  // The inference thread's own.
  absl::flat_hash_map<uint32_t, std::unique_ptr<Actor>> actors_;  // by slot
  std::deque<Event> pending_;                                     // steps not yet decoded
  int pending_rows_ = 0;
  UnrollPool::Claim claim_ = 0;  // of the first of them
  torch::Tensor states_;         // [slots * environments, H], on the device
  std::vector<Row> rows_;
  std::vector<Answer> answers_;
  // The rows that the policy reads, with room for the largest batch so far.
  std::vector<std::string> staged_;  // by observation array: [rows, bytes of it]
  std::string staged_first_;         // bool [rows]
  std::vector<int> finished_;
  Random random_;

  prometheus::Counter& batches_counter_;
  prometheus::Histogram& batch_rows_;
  prometheus::Counter& seconds_counter_;
  prometheus::Counter& starved_seconds_;
};

}  // namespace sibyl::learner
