#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/feedback.h"
#include "environments/environment.h"
#include "policy/policy.h"

namespace sibyl {

// What a policy is told of its last step during evaluation, as it was in training.
struct EvaluationFeedback {
  Feedback feedback;
  // How captions are made canonical.
  v1::CaptionRule caption_rule = v1::CAPTION_RULE_EXACT;
  size_t max_caption_length = 0;
  // What each caption is worth, by id; a caption that is not here: 0.
  absl::flat_hash_map<uint64_t, float> caption_rewards = {};
};

struct EvaluationOptions {
  // The episodes' seeds are seed, seed + 1, ...; all must be below kFirstTrainingSeed, because training never plays
  // seeds below it.
  uint64_t seed = 1'000'000;
  uint64_t episodes = 200;
  // true: plays the most probable action; false: samples actions from the policy, as in training.
  bool greedy = false;
  // Episodes played side by side, in one batch of the policy.
  int environments = 64;
  // nullptr: the policy is told nothing. Outlives the call.
  const EvaluationFeedback* told = nullptr;
  // Ends the play with Cancelled once its stop is requested.
  std::stop_token stop = {};
};

struct EpisodeResult {
  double episode_return = 0;  // undiscounted sum of the environment's own rewards
  bool success = false;
  uint64_t length = 0;          // steps
  std::vector<double> figures;  // of EnvironmentSpec.figures
};

using MakeEnvironmentFunction = std::function<absl::StatusOr<std::unique_ptr<Environment>>()>;

// Plays episodes with a policy that does not change. Element k of the result is the episode of seed + k. A batch always
// has options.environments rows, and episode k is played in row k modulo that number. So an episode depends on the
// weights, its seed and options.environments, but not on the number of episodes. InvalidArgument: no episodes, or seeds
// that training may have played. Uses one thread, beside LibTorch's own.
absl::StatusOr<std::vector<EpisodeResult>> PlayEpisodes(Policy& policy, const MakeEnvironmentFunction& make,
                                                        const EvaluationOptions& options);

// An estimate with its 95 % confidence interval.
struct Interval {
  double value = 0, low = 0, high = 0;
};

struct EvaluationSummary {
  uint64_t episodes = 0;
  Interval episode_return;      // mean; normal approximation, deviation estimated from the episodes
  Interval success_rate;        // Wilson's score interval (Wilson 1927)
  double length = 0;            // mean, steps
  std::vector<double> figures;  // means
};
EvaluationSummary Summarize(const std::vector<EpisodeResult>& episodes);

// A trained policy, read from a run's folder.
struct TrainedPolicy {
  std::string checkpoint;  // its folder's name, "checkpoint-<steps>"
  uint64_t steps = 0;      // environment steps trained on
  v1::Experiment experiment;
  v1::EnvironmentSpec spec;
  std::shared_ptr<Policy> policy;            // on the CPU
  std::shared_ptr<EvaluationFeedback> told;  // the rewards of captions are the checkpoint's
};

// Reads RUN/experiment.textproto and RUN/checkpoints/<checkpoint>/weights.safetensors; an empty name means the newest
// checkpoint. NotFound: no such run or checkpoint; the message names those that exist. FailedPrecondition: weights of
// another network, or a checkpoint of another version.
absl::StatusOr<TrainedPolicy> LoadTrainedPolicy(const std::string& run, const std::string& checkpoint);

}  // namespace sibyl
