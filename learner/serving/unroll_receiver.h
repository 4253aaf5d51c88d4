#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/tensor_packing.h"
#include "learner/experience/caption_table.h"
#include "learner/experience/episode_stats.h"
#include "learner/experience/step_counter.h"
#include "learner/experience/unroll_pool.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/unroll.pb.h"

namespace sibyl::learner {

// Where the answers for one local actor go. Calls come from the receiver's thread and must not block.
class UnrollSink {
 public:
  virtual ~UnrollSink() = default;
  // `batches` of its batches have been taken, and there is room for the next.
  virtual void GiveRoom(uint64_t batches) = 0;
  virtual void RequestTexts(v1::CaptionTextRequest request) = 0;
  // The actor broke the contract: end its stream.
  virtual void Refuse(const absl::Status& status) = 0;
};

// Turns the batches of local actors into finished unrolls, beside what Inference makes of steps.
//
// Attach, Submit, Detach and Close may be called from any thread; Run is the body of one thread, which owns everything
// else here. As with Inference each environment of an actor has an unroll of its own while it is played, so that both
// kinds of actors need the same number (UnrollSlotsNeeded): an actor is given room when the receiver holds them for it,
// and a batch is written as soon as it is there. When no unroll is free, room is what waits. An actor has at most one
// unanswered batch, so the queue is bounded by the actors.
class UnrollReceiver {
 public:
  // `state_size`: H of the policy. All pointers outlive this.
  UnrollReceiver(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, int64_t state_size,
                 UnrollPool* unrolls, CaptionTable* captions, EpisodeStats* episodes, StepCounter* steps,
                 Metrics* metrics);

  void Attach(const v1::SlotLease& lease, std::shared_ptr<UnrollSink> sink);
  void Submit(const v1::SlotLease& lease, v1::UnrollBatch batch);
  // The actor is gone: its unrolls are freed, its running episodes counted as abandoned.
  void Detach(const v1::SlotLease& lease);

  // Until Close.
  void Run();
  void Close();

 private:
  struct Event {
    enum Kind { kAttach, kBatch, kDetach } kind;
    v1::SlotLease lease;
    std::shared_ptr<UnrollSink> sink;
    v1::UnrollBatch batch;
  };
  struct Begin {  // o_0 of an environment's next unroll
    uint8_t first = 0;
    uint64_t episode = 0;
    int32_t caption = 0;  // row, pinned
    uint32_t count = 0;
  };
  struct Actor {
    v1::SlotLease lease;
    std::shared_ptr<UnrollSink> sink;
    std::vector<int> unrolls;  // held for the next batch, at most one for each environment
    uint64_t batches = 0, next_step = 0;
    ObservationUnpacker unpacker, final_unpacker;
    std::vector<Begin> begins;  // by environment; empty before the first batch
    std::string observations;   // [environments, bytes of one observation]: o_0
  };

  void Handle(Event& event);
  void HandleDetach(const v1::SlotLease& lease);
  // Gives room to those who wait for it, in turn; false when they have to wait for a release.
  bool GiveRoom();
  absl::Status Check(const Actor& actor, const v1::UnrollBatch& batch) const;
  absl::Status Take(Actor& actor, const v1::UnrollBatch& batch);
  // Observations into the actor's unrolls. An error leaves nothing behind that matters.
  absl::Status WriteObservations(Actor& actor, const v1::UnrollBatch& batch);
  void WriteColumns(Actor& actor, const v1::UnrollBatch& batch);
  // What the rows of steps 1 to T and the last step said; captions, rewards, ends.
  void WriteSteps(Actor& actor, const v1::UnrollBatch& batch);

  const int unroll_length_, environments_, group_rows_, actions_;
  const int64_t state_size_;
  const size_t heads_;  // values of an observation
  const size_t observation_bytes_;
  UnrollPool* const unrolls_;
  CaptionTable* const captions_;
  EpisodeStats* const episodes_;
  StepCounter* const steps_;

  Mutex mutex_;
  CondVar arrived_;
  std::deque<Event> incoming_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  // The receiver thread's own.
  absl::flat_hash_map<uint32_t, std::unique_ptr<Actor>> actors_;  // by slot
  std::deque<Actor*> waiting_;                                    // for room
  UnrollPool::Claim claim_ = 0;                                   // of the first of them

  prometheus::Counter& batches_counter_;
  prometheus::Counter& seconds_counter_;
  prometheus::Counter& starved_seconds_;
};

}  // namespace sibyl::learner
