#include "policy/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/action_spec.h"
#include "common/caption.h"
#include "common/checkpoints.h"
#include "common/config.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "policy/observation_tensor.h"
#include "policy/weights.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

// The normal distribution's 97.5 % point.
constexpr double kZ = 1.959963984540054;

// One row of the batch: an environment and the episode it is playing.
struct Row {
  std::unique_ptr<Environment> environment;
  std::vector<void*> buffers;  // by observation array, into the batch
  uint64_t episode = 0;        // counted from 0
  bool playing = false;
  Random random{0};  // of this episode
  // Of this episode, where the policy is told its last rewards.
  absl::flat_hash_map<uint64_t, uint32_t> caption_counts;
  absl::flat_hash_map<std::string, uint32_t> observation_counts;
  CaptionWorth caption;  // of the newest observation
};

// The bytes of the environment's arrays, one after another.
std::string Shown(const Row& row, const v1::EnvironmentSpec& spec) {
  std::string shown;
  for (int i = 0; i < spec.observation_size(); ++i) {
    shown.append(static_cast<const char*>(row.buffers[i]), Bytes(spec.observation(i)));
  }
  return shown;
}

// What the newest observation's caption is worth, the caption counted.
CaptionWorth WorthOfCaption(Row& row, const EvaluationFeedback& told) {
  const absl::string_view raw = row.environment->Caption();
  if (raw.empty()) return {};
  bool cut = false;
  const uint64_t id = CaptionId(CanonicalCaption(raw, told.caption_rule, told.max_caption_length, &cut));
  if (id == 0) return {};
  const auto reward = told.caption_rewards.find(id);
  return {reward == told.caption_rewards.end() ? 0 : reward->second, ++row.caption_counts[id]};
}

// Tells the policy nothing of what was before the episode.
void TellStart(Row& row, const EvaluationFeedback& told, const v1::EnvironmentSpec& spec) {
  row.caption_counts.clear();
  row.observation_counts.clear();
  if (told.feedback.reward_numbers() > 0) {
    row.caption = WorthOfCaption(row, told);
    ++row.observation_counts[Shown(row, spec)];
  }
  std::memset(row.buffers.back(), 0, told.feedback.bytes());
}

// Tells the policy of the step that it chose; `action` in the policy's units.
void TellStep(Row& row, const EvaluationFeedback& told, const v1::EnvironmentSpec& spec, const char* action,
              const StepResult& step) {
  std::vector<float> rewards(told.feedback.reward_numbers());
  if (!rewards.empty()) {
    Payment payment;
    payment.extrinsic = step.reward;
    payment.before = row.caption;
    payment.after = row.caption = WorthOfCaption(row, told);
    payment.terminated = step.terminated;
    payment.observation_count = ++row.observation_counts[Shown(row, spec)];
    told.feedback.Rewards(payment, rewards.data());
  }
  told.feedback.Write(action, rewards.data(), static_cast<char*>(row.buffers.back()));
}

absl::Status Start(Row& row, uint64_t seed, uint64_t episode) {
  row.episode = episode;
  row.playing = true;
  row.random = Random(Mix64(seed + episode));
  return row.environment->Reset(seed + episode, row.buffers);
}

}  // namespace

absl::StatusOr<std::vector<EpisodeResult>> PlayEpisodes(Policy& policy, const MakeEnvironmentFunction& make,
                                                        const EvaluationOptions& options) {
  if (options.episodes == 0 || options.environments < 1) {
    return absl::InvalidArgumentError(absl::StrCat("episodes is ", options.episodes, " and environments ",
                                                   options.environments, "; both must be at least 1"));
  }
  if (options.seed >= kFirstTrainingSeed || options.episodes > kFirstTrainingSeed - options.seed) {
    return absl::InvalidArgumentError(absl::StrCat("seed is ", options.seed, " for ", options.episodes,
                                                   " episodes, whose seeds reach those of training; seed + episodes "
                                                   "must be at most ",
                                                   kFirstTrainingSeed));
  }
  torch::NoGradGuard no_grad;
  const int64_t B = options.environments;
  std::vector<Row> rows(std::min<uint64_t>(B, options.episodes));
  Observations observations;
  for (Row& row : rows) {
    SIBYL_ASSIGN_OR_RETURN(row.environment, make());
  }
  const v1::EnvironmentSpec spec = rows[0].environment->spec();
  const bool told = options.told != nullptr && options.told->feedback.numbers() > 0;
  const v1::EnvironmentSpec policy_spec = told ? options.told->feedback.PolicySpec() : spec;
  for (const auto& array : policy_spec.observation()) {
    observations.push_back(torch::zeros(BatchedShape(array, {1, B}), ToScalarType(array.dtype())));
    const size_t bytes = observations.back().nbytes() / B;
    for (size_t b = 0; b < rows.size(); ++b) {
      rows[b].buffers.push_back(static_cast<char*>(observations.back().data_ptr()) + b * bytes);
    }
  }
  const ActionDistribution& distribution = policy.distribution();
  std::string action(distribution.action_bytes(), '\0');
  torch::Tensor first = torch::ones({1, B}, torch::kBool);
  torch::Tensor state = torch::zeros({B, policy.state_size()});
  std::vector<EpisodeResult> results(options.episodes);
  for (size_t b = 0; b < rows.size(); ++b) {
    SIBYL_RETURN_IF_ERROR(Start(rows[b], options.seed, b));
    if (told) TellStart(rows[b], *options.told, spec);
  }

  for (size_t playing = rows.size(); playing > 0;) {
    if (options.stop.stop_requested()) return absl::CancelledError("the evaluation was stopped");
    const PolicyOutput output = policy.Forward(observations, first, state);
    state = output.states[0];
    first.zero_();
    const torch::Tensor choices = distribution.ForDrawing(output.action[0]);
    for (size_t b = 0; b < rows.size(); ++b) {
      Row& row = rows[b];
      if (!row.playing) continue;
      const float* of_row = choices.data_ptr<float>() + b * choices.size(1);
      const float log_prob = options.greedy ? distribution.Best(of_row, action.data())
                                            : distribution.Draw(of_row, row.random, action.data());
      if (!std::isfinite(log_prob)) {
        return absl::InternalError(absl::StrCat("the policy's output is not finite in the episode of seed ",
                                                options.seed + row.episode, "; its weights are damaged"));
      }
      const std::string chosen = told ? action : "";
      if (spec.action().has_box()) ScaleToBounds(spec.action().box(), action.data());
      SIBYL_ASSIGN_OR_RETURN(const StepResult step, row.environment->Step(ActionView(action.data()), row.buffers));
      if (told) TellStep(row, *options.told, spec, chosen.data(), step);
      EpisodeResult& result = results[row.episode];
      result.episode_return += step.reward;
      ++result.length;
      if (!step.terminated && !step.truncated) continue;
      result.success = row.environment->Success();
      const absl::Span<const double> figures = row.environment->Figures();
      result.figures.assign(figures.begin(), figures.end());
      first[0][static_cast<int64_t>(b)] = true;
      if (row.episode + B < options.episodes) {
        SIBYL_RETURN_IF_ERROR(Start(row, options.seed, row.episode + B));
        if (told) TellStart(row, *options.told, spec);
      } else {
        row.playing = false;
        --playing;
      }
    }
  }
  return results;
}

EvaluationSummary Summarize(const std::vector<EpisodeResult>& episodes) {
  EvaluationSummary summary;
  summary.episodes = episodes.size();
  if (episodes.empty()) return summary;
  const double n = static_cast<double>(episodes.size());
  summary.figures.resize(episodes[0].figures.size());
  double sum = 0, successes = 0;
  for (const EpisodeResult& episode : episodes) {
    sum += episode.episode_return;
    successes += episode.success;
    summary.length += static_cast<double>(episode.length) / n;
    for (size_t i = 0; i < summary.figures.size(); ++i) summary.figures[i] += episode.figures[i] / n;
  }
  const double mean = sum / n;
  double squares = 0;
  for (const EpisodeResult& episode : episodes)
    squares += (episode.episode_return - mean) * (episode.episode_return - mean);
  const double reach = n > 1 ? kZ * std::sqrt(squares / (n - 1) / n) : std::numeric_limits<double>::infinity();
  summary.episode_return = {mean, mean - reach, mean + reach};

  const double rate = successes / n, z2 = kZ * kZ;
  const double centre = (rate + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kZ * std::sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  summary.success_rate = {rate, std::max(0.0, centre - half), std::min(1.0, centre + half)};
  return summary;
}

absl::StatusOr<TrainedPolicy> LoadTrainedPolicy(const std::string& run, const std::string& checkpoint) {
  const std::string config = run + "/experiment.textproto";
  if (!fs::exists(config)) {
    return absl::NotFoundError(
        absl::StrCat("`", run, "` is not a run: there is no ", config, "; name a folder that `sibyl train` made"));
  }
  TrainedPolicy trained;
  SIBYL_ASSIGN_OR_RETURN(trained.experiment, LoadExperiment(config, {}));
  EnvironmentOptions options;
  options.max_episode_steps = trained.experiment.environment().max_episode_steps();
  SIBYL_ASSIGN_OR_RETURN(trained.spec, FindEnvironmentSpec(trained.experiment.environment().name(), options));

  const std::vector<std::string> names = CheckpointNames(run);
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat("there is no checkpoint in ", run, "/checkpoints; the run has to train for ",
                     trained.experiment.learner().checkpoint_seconds(), " s, or to its end, first"));
  }
  if (!checkpoint.empty() && std::find(names.begin(), names.end(), checkpoint) == names.end()) {
    return absl::NotFoundError(absl::StrCat("there is no checkpoint `", checkpoint, "` in ", run,
                                            "/checkpoints; there are: ", absl::StrJoin(names, ", ")));
  }
  SIBYL_ASSIGN_OR_RETURN(const Checkpoint found,
                         checkpoint.empty() ? ReadNewestCheckpoint(run) : ReadCheckpoint(run, checkpoint));
  trained.checkpoint = found.name;
  trained.steps = found.state.steps();
  trained.told = std::make_shared<EvaluationFeedback>(
      EvaluationFeedback{Feedback(trained.experiment, trained.spec), trained.experiment.environment().caption_rule(),
                         trained.experiment.environment().max_caption_length()});
  for (const v1::CaptionState& caption : found.state.captions()) {
    if (caption.reward() != 0) trained.told->caption_rewards[caption.id()] = caption.reward();
  }
  SIBYL_ASSIGN_OR_RETURN(trained.policy, MakePolicy(trained.experiment.policy(), trained.told->feedback.PolicySpec(),
                                                    trained.experiment.reward()));
  SIBYL_RETURN_IF_ERROR(LoadPolicy(found.weights, *trained.policy));
  return trained;
}

}  // namespace sibyl
