#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/event_file.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "learner/experience/episode_stats.h"
#include "learner/experience/score_applier.h"
#include "learner/experience/unroll_pool.h"
#include "learner/reward_client.h"
#include "learner/serving/policy_store.h"
#include "learner/training/batch.h"
#include "learner/training/checkpoint.h"
#include "learner/training/collective.h"
#include "learner/training/trainer.h"

namespace sibyl::learner {

// What training works on. All outlive the loop.
struct TrainingParts {
  v1::Experiment experiment;
  BatchSettings settings;
  std::string run_dir;
  std::string run_id;
  std::string record_dir;  // every batch is written there; empty: none
  Trainer* trainer;
  PolicyStore* policies;
  UnrollPool* unrolls;
  CaptionTable* captions;
  EpisodeStats* episodes;
  RewardClient* rewards;    // nullptr: captions are not rewarded, or another rank follows the reward model
  ScoreQueue* score_queue;  // what the reward model says, for the other ranks; nullptr: nothing is passed on
  Collective* collective;   // nullptr: this learner trains alone
  EventFile* events;
  CheckpointThread* checkpoints;  // nullptr: another rank writes them
  Clock* clock;
  Heartbeats* heartbeats;
  FileSystem* files;
  Metrics* metrics;
};

// Takes finished unrolls, mixes their rewards, trains, publishes the weights, and keeps the run's statistics. Run is
// the body of one thread. Any thread may call the rest.
class TrainingLoop {
 public:
  // `resumed`: the state to go on from, or a fresh one with steps 0.
  TrainingLoop(const TrainingParts& parts, const v1::LearnerState& resumed);
  ~TrainingLoop();

  // Trains until total_steps were trained on, or until the unroll pool is closed. It then hands over a final checkpoint
  // and writes the summary. An error: training cannot go on (an update was not finite, another rank is gone), or the
  // summary cannot be written.
  absl::Status Run();

  // Environment steps that all ranks have trained on over the run.
  uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }

  // Hands the present state to the checkpoint thread. Call it before or after Run.
  void Checkpoint();

 private:
  struct LoopMetrics;

  // What all ranks do next.
  struct Turn {
    uint64_t steps = 0;  // of all batches
    bool stop = false;
    bool news = false;
  };
  absl::StatusOr<Turn> Agree(uint64_t steps, bool stop);
  // Waits for a batch of unrolls, among several ranks no longer than it takes to see that none comes. False: there is
  // none, or the pool is closed.
  bool PopBatch(Unrolls* unrolls);
  // Without unrolls: takes the other ranks' step.
  absl::Status TrainOnce(Unrolls unrolls, uint64_t steps);
  // Tells the other ranks what happened here, and learns what happened there.
  absl::Status ExchangeNews();
  // Every metric and curve that does not come from one batch.
  void Publish(const TrainingStats& stats, absl::Time now);
  double TrainSeconds(absl::Time now) const;
  absl::Status WriteSummary();
  // Steps trained on that a rank has played itself, if all play alike.
  uint64_t StepsHere() const;

  const TrainingParts parts_;
  std::atomic<uint64_t> steps_;
  const uint64_t first_step_;
  const double earlier_seconds_;
  const absl::Time begin_;
  absl::Time last_checkpoint_, last_curves_;
  uint64_t last_curve_steps_;
  v1::RewardSums sums_;
  double policy_lag_ = 0, reward_age_ = 0;  // of the last batch

  bool starved_ = false;  // the last wait for unrolls was in vain
  absl::Time last_news_;

  std::optional<ScoreApplier> scores_;  // where rank 0 passes them on

  const std::unique_ptr<LoopMetrics> metrics_;
  const std::unique_ptr<Heartbeat> heartbeat_;
};

}  // namespace sibyl::learner
