#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/runtime/clock.h"
#include "reward_model/scoring/prequential.h"
#include "reward_model/scoring/score_model.h"
#include "reward_model/scoring/text_model.h"
#include "reward_model/tally/comparisons.h"

namespace sibyl::reward_model {

// Labels that the networks learn from, at most; beyond them the oldest is left out.
inline constexpr size_t kMaxExamples = 1'000'000;

struct LearnedModelMetrics {
  explicit LearnedModelMetrics(Metrics& metrics);

  prometheus::Gauge& examples;
  prometheus::Counter& training_steps;
  prometheus::Gauge& training_steps_due;
  prometheus::Gauge& loss;
  prometheus::Gauge& accuracy;
  prometheus::Gauge& calibration_error;
  prometheus::Gauge& good_share;
  prometheus::Gauge& disagreement;
  prometheus::Gauge& score_mean;
  prometheus::Gauge& score_deviation;
  prometheus::Counter& captions_scored;
  prometheus::Counter& cpu_seconds;
};

// Scores by an ensemble of text networks that learn from the labels.
//   CLASSIFICATION: a caption's score is the probability that it is good; it learns from captions and the mean of their
//     labels.
//   RANKING: what Bradley and Terry (1952) call its strength, learned from comparisons. Each network's scores are
//     brought to mean 0 and deviation 1, captions weighing as often as they were seen.
// Each new label makes some training due (RewardTrainingConfig.passes). While and after training, at most every
// version_seconds, all captions seen lately are scored by the networks as they are then, and those scores appear at one
// moment, with the mean and the deviation of that version. Captions that appear later are scored as they come. With
// config.weights_file nothing is learned: captions are scored as they come by what Load has read.
//
// The work is done by whoever calls Work, a thread of its own in a program. Everything else may be called from any
// thread and waits for no work, except Save and Load, which wait for a piece of it.
class LearnedModel : public ScoreModel {
 public:
  LearnedModel(const v1::RewardModelConfig& config, uint64_t seed, Clock& clock, Metrics& metrics);

  std::string kind() const override;
  void Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) override;
  void ObserveComparison(const Caption& first, const Caption& second, double first_better) override;
  void Restart() override;
  void Forget(uint64_t id) override;
  void Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) override;
  v1::RewardTransform transform() const override;
  uint64_t score_version() const override;
  bool WantsCaptions() const override;
  void OfferCaptions(absl::Span<const Caption* const> piece, bool last) override;
  std::vector<uint64_t> TakeChanged(size_t limit) override;
  bool IsStale(const Caption& caption) const override;
  double Uncertainty(const Caption& caption, const Caption* other) const override;

  // Does one piece of work of some ten milliseconds if there is any. Gives the rest to take before the next call, so
  // that the share of a core is kept to.
  absl::Duration Work();

  // Training that the labels so far still ask for, in optimiser steps of every network; 0 or less: none.
  double training_steps_due() const {
    MutexLock lock(work_mutex_);
    return due_;
  }

  // reward_model.safetensors: weights, the optimisers' moments and how much training is due.
  absl::Status Save(const std::string& run_dir) override;
  // With config.weights_file: that file instead, which must be there and be of this goal; it is never written.
  // DataLoss: a number in the file is not finite.
  absl::Status Load(const std::string& run_dir) override;

 private:
  // A caption's text, which outlives the caption. `text` is nullptr where there is no caption.
  struct Text {
    uint64_t id = 0;
    std::shared_ptr<const std::string> text;
  };
  struct Example {
    Text first, second;  // `second` of a comparison only
    float target = 0;

    OrderedPair key() const { return {first.id, second.id}; }
  };
  struct ScoreEntry {
    float score = 0;
    float disagreement = 0;
    uint64_t version = 0;  // 0: no score yet
    bool wanted = false;   // waits to be scored
  };
  struct Seen {
    Text text;
    uint64_t count, last_step;
  };
  struct Scored {
    torch::Tensor score, disagreement;  // [N] float
  };

  void StartOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  void Add(const Example& example) ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  bool TakeExamples() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  bool ScoreWanted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  bool ScoreVersion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  void ShowVersion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  void ShowMoments() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_, mutex_);
  bool Train() ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  // The texts and, behind them, empty ones: [M, text_length].
  torch::Tensor Encode(absl::Span<const Text> texts) const;
  // [K, N].
  torch::Tensor RawScores(absl::Span<const Text> texts) ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  Scored Combine(const torch::Tensor& raw) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);
  // Throws where a score is not finite.
  void SetScores(absl::Span<const Text> texts, const Scored& scored, uint64_t version)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  NamedTensors Tensors() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(work_mutex_);

  const v1::RewardModelConfig config_;
  const bool ranking_;
  const bool frozen_;  // config.weights_file is set
  const uint64_t seed_;
  Clock& clock_;
  LearnedModelMetrics metrics_;

  std::atomic<bool> saving_ = false;  // Save waits for work_mutex_

  // Taken before mutex_.
  mutable Mutex work_mutex_;
  std::unique_ptr<TextModel> model_ ABSL_GUARDED_BY(work_mutex_);
  // Of each network's raw scores, for ranking: [K].
  Moments moments_ ABSL_GUARDED_BY(work_mutex_);
  torch::Tensor version_moments_ ABSL_GUARDED_BY(work_mutex_);  // [2] mean and deviation of the last version's scores
  // Bounded: beyond kMaxExamples the oldest one's place is taken.
  std::vector<Example> examples_ ABSL_GUARDED_BY(work_mutex_);
  size_t oldest_example_ ABSL_GUARDED_BY(work_mutex_) = 0;                            // once they are that many
  absl::flat_hash_map<OrderedPair, size_t> example_of_ ABSL_GUARDED_BY(work_mutex_);  // (id, 0), or the pair
  double good_sum_ ABSL_GUARDED_BY(work_mutex_) = 0;                                  // of the examples' targets
  double due_ ABSL_GUARDED_BY(work_mutex_) = 0;  // training steps, of every network
  int next_network_ ABSL_GUARDED_BY(work_mutex_) = 0;
  Random random_ ABSL_GUARDED_BY(work_mutex_);
  Prequential prequential_ ABSL_GUARDED_BY(work_mutex_);
  bool trained_ ABSL_GUARDED_BY(work_mutex_) = false;  // since the last version
  // CPU time of the last version's scoring, and of training since it began.
  absl::Duration version_cpu_ ABSL_GUARDED_BY(work_mutex_), training_cpu_ ABSL_GUARDED_BY(work_mutex_);
  absl::Time version_at_ ABSL_GUARDED_BY(work_mutex_) = absl::InfinitePast();
  // The version in the making: captions seen lately, last seen first, and the raw scores of the first of them.
  std::vector<Seen> version_captions_ ABSL_GUARDED_BY(work_mutex_);
  std::vector<torch::Tensor> version_scores_ ABSL_GUARDED_BY(work_mutex_);  // [K, n] each

  mutable Mutex mutex_;
  // Labels that have come; with `restarted_`, the first ones are all there were when everything began anew.
  std::vector<Example> incoming_ ABSL_GUARDED_BY(mutex_);
  bool restarted_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<uint64_t, ScoreEntry> scores_ ABSL_GUARDED_BY(mutex_);
  std::vector<Text> wanted_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> changed_ ABSL_GUARDED_BY(mutex_);
  v1::RewardTransform transform_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  // Captions that were seen, for the next version; they are being collected while it wants them.
  bool wants_captions_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Seen> seen_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::reward_model
