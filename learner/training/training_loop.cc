#include "learner/training/training_loop.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/checkpoints.h"
#include "common/log.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "learner/sizes.h"

namespace sibyl::learner {
namespace {

constexpr absl::Duration kCurvesEvery = absl::Seconds(1), kNewsEvery = absl::Seconds(1);
// A turn that takes longer hangs: an update takes seconds at most, and waits wake up once a second.
constexpr absl::Duration kHangs = absl::Minutes(5);
// How long a rank lets the others wait for its experience: at first, and while none comes.
constexpr absl::Duration kWait = absl::Seconds(1), kStarvedWait = absl::Milliseconds(20);

void AddTo(const v1::RewardSums& part, v1::RewardSums* sums) {
  sums->set_steps(sums->steps() + part.steps());
  sums->set_captioned_steps(sums->captioned_steps() + part.captioned_steps());
  sums->set_scored_steps(sums->scored_steps() + part.scored_steps());
  sums->set_extrinsic(sums->extrinsic() + part.extrinsic());
  sums->set_intrinsic(sums->intrinsic() + part.intrinsic());
}

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

// Of the captioned steps, those whose caption had no score.
double UnlabelledShare(const v1::RewardSums& sums) {
  return Ratio(static_cast<double>(sums.captioned_steps() - sums.scored_steps()), static_cast<double>(sums.steps()));
}

double IntrinsicShare(const v1::RewardSums& sums) {
  return Ratio(sums.intrinsic(), sums.intrinsic() + sums.extrinsic());
}

// Raises a counter to a value that is kept elsewhere.
void RaiseTo(prometheus::Counter& counter, double value) {
  if (value > counter.Value()) counter.Increment(value - counter.Value());
}

}  // namespace

struct TrainingLoop::LoopMetrics {
  explicit LoopMetrics(Metrics& m)
      : steps(m.Counter("sibyl_learner_steps_total", "Environment steps trained on, over the run.")),
        episodes(m.Counter("sibyl_learner_episodes_total", "Episodes that ended, over the run.")),
        abandoned(m.Counter("sibyl_learner_abandoned_episodes_total",
                            "Episodes lost with their actor, over the run; never counted as failures.")),
        train_seconds(m.Counter("sibyl_learner_train_seconds_total", "Wall time of training, over the run.")),
        update_seconds(
            m.Counter("sibyl_learner_update_seconds_total", "Wall time spent making batches and in optimiser steps.")),
        wait_seconds(m.Counter("sibyl_learner_update_waits_seconds_total",
                               "Wall time that training waited for finished unrolls.")),
        dropped(m.Counter("sibyl_learner_dropped_steps_total",
                          "Steps left out of the loss because their policy was older than learner.max_policy_lag.")),
        version(m.Gauge("sibyl_learner_policy_version", "Optimiser steps behind the newest weights.")),
        success(m.Gauge("sibyl_learner_success_rate",
                        "Share of the last learner.episode_window episodes that reached "
                        "the goal.")),
        episode_return(m.Gauge("sibyl_learner_mean_return",
                               "Mean undiscounted extrinsic return of the last learner.episode_window episodes.")),
        length(m.Gauge("sibyl_learner_mean_length_steps", "Mean length of the last learner.episode_window episodes.")),
        lag(m.Gauge("sibyl_learner_policy_lag_steps",
                    "Mean optimiser steps between the weights that acted and those trained, in the last batch.")),
        age(m.Gauge("sibyl_learner_reward_age_steps",
                    "Mean environment steps since the scores of the last batch's captions came.")),
        captions(m.Gauge("sibyl_learner_captions", "Distinct captions in the caption table.")),
        caption_bytes(m.Gauge("sibyl_learner_caption_table_bytes", "Approximate memory of the caption table.")),
        collisions(m.Gauge("sibyl_learner_caption_collisions",
                           "Caption texts refused because their hash did not fit or was taken by another text.")),
        evicted(m.Gauge("sibyl_learner_captions_forgotten", "Captions that made room for newer ones.")),
        caption_text_bytes(
            m.Gauge("sibyl_learner_caption_text_bytes", "Bytes of texts and contexts in the caption table.")),
        scores_without_row(m.Gauge("sibyl_learner_scores_without_caption",
                                   "Scores of captions that the caption table does not have.")),
        scores_dropped(m.Counter("sibyl_learner_scores_dropped_total",
                                 "Scores of such captions that were dropped because there were too many.")),
        free_unrolls(m.Gauge("sibyl_learner_unrolls_free", "Unrolls that are in no use.")),
        unroll_bytes(m.Gauge("sibyl_learner_unrolls_bytes",
                             "Memory of the unrolls that exist; it follows the actors that are connected.")),
        finished_unrolls(m.Gauge("sibyl_learner_unrolls_finished", "Finished unrolls that wait for training.")),
        policy_loss(m.Gauge("sibyl_learner_policy_loss", "Policy loss of the last update.")),
        value_loss(m.Gauge("sibyl_learner_value_loss", "Value loss of the last update.")),
        entropy(m.Gauge("sibyl_learner_entropy", "Mean entropy of the policy in the last update, in nats.")),
        gradient_norm(m.Gauge("sibyl_learner_gradient_norm", "Norm of the last update's gradient before clipping.")),
        learning_rate(m.Gauge("sibyl_learner_learning_rate", "Learning rate of the last update.")),
        entropy_coefficient(
            m.Gauge("sibyl_learner_entropy_coefficient", "Weight of the entropy bonus in the last update.")),
        mean_ratio(
            m.Gauge("sibyl_learner_mean_ratio",
                    "Mean ratio of the policy's probability of an action to the behaviour policy's, last update.")),
        mean_value(m.Gauge("sibyl_learner_mean_value", "Mean of the value function in the last update.")),
        explained_variance(m.Gauge("sibyl_learner_explained_variance",
                                   "Share of the value targets' variance that the value function explains.")),
        intrinsic_share(m.Gauge("sibyl_learner_intrinsic_share",
                                "Share of the sum of absolute rewards that was intrinsic, over the run.")),
        unlabelled_share(m.Gauge("sibyl_learner_unlabelled_share",
                                 "Share of the steps trained on that had a caption without a score, over the run.")),
        label_share(m.Gauge("sibyl_learner_label_share",
                            "Distinct captions that the judge was asked about, over the run's environment steps.")),
        extrinsic_reward(m.Counter("sibyl_learner_reward_total", kRewardHelp, {{"channel", "extrinsic"}})) {
    for (int i = 0; i < kChannelCount; ++i) {
      channel_rewards[i] =
          &m.Counter("sibyl_learner_reward_total", kRewardHelp, {{"channel", ChannelName(static_cast<Channel>(i))}});
    }
  }
  static constexpr char kRewardHelp[] = "Sum of the absolute reward that each source paid, coefficients included.";
  prometheus::Counter &steps, &episodes, &abandoned, &train_seconds, &update_seconds, &wait_seconds, &dropped;
  prometheus::Gauge &version, &success, &episode_return, &length, &lag, &age, &captions, &caption_bytes, &collisions,
      &evicted, &caption_text_bytes, &scores_without_row;
  prometheus::Counter& scores_dropped;
  prometheus::Gauge &free_unrolls, &unroll_bytes, &finished_unrolls, &policy_loss, &value_loss, &entropy,
      &gradient_norm, &learning_rate, &entropy_coefficient, &mean_ratio, &mean_value, &explained_variance,
      &intrinsic_share, &unlabelled_share, &label_share;
  prometheus::Counter& extrinsic_reward;
  std::array<prometheus::Counter*, kChannelCount> channel_rewards;
};

TrainingLoop::TrainingLoop(const TrainingParts& parts, const v1::LearnerState& resumed)
    : parts_(parts),
      steps_(resumed.steps()),
      first_step_(resumed.steps()),
      earlier_seconds_(resumed.train_seconds()),
      begin_(parts.clock->Now()),
      last_checkpoint_(begin_),
      last_curves_(begin_),
      last_curve_steps_(resumed.steps()),
      sums_(resumed.reward_sums()),
      last_news_(begin_),
      metrics_(std::make_unique<LoopMetrics>(*parts.metrics)),
      heartbeat_(parts.heartbeats->Add("training", kHangs)) {
  if (parts.collective != nullptr && parts.collective->rank() != 0) {
    scores_.emplace(parts.captions, parts.clock, parts.heartbeats);
  }
}

TrainingLoop::~TrainingLoop() = default;

double TrainingLoop::TrainSeconds(absl::Time now) const {
  return earlier_seconds_ + absl::ToDoubleSeconds(now - begin_);
}

bool TrainingLoop::PopBatch(Unrolls* unrolls) {
  const int count = UnrollsPerBatch(parts_.settings.learner);
  if (parts_.collective == nullptr) {
    while (!parts_.unrolls->PopFinishedWithin(kWait, count, unrolls)) {
      if (parts_.unrolls->closed()) return false;
      heartbeat_->Beat();
    }
    return true;
  }
  const bool popped = parts_.unrolls->PopFinishedWithin(starved_ ? kStarvedWait : kWait, count, unrolls);
  starved_ = !popped;
  return popped;
}

absl::StatusOr<TrainingLoop::Turn> TrainingLoop::Agree(uint64_t steps, bool stop) {
  if (parts_.collective == nullptr) return Turn{steps, stop, false};
  const bool news = parts_.collective->rank() == 0 && parts_.clock->Now() - last_news_ > kNewsEvery;
  torch::Tensor sums = torch::tensor({static_cast<double>(steps), stop ? 1.0 : 0.0, news ? 1.0 : 0.0}, torch::kFloat64);
  SIBYL_RETURN_IF_ERROR(parts_.collective->Sum({sums}));
  const double* sum = sums.data_ptr<double>();
  return Turn{static_cast<uint64_t>(sum[0]), sum[1] > 0, sum[2] > 0};
}

absl::Status TrainingLoop::ExchangeNews() {
  last_news_ = parts_.clock->Now();
  const bool leads = parts_.collective->rank() == 0;
  v1::RankNews mine;
  if (!leads) {
    parts_.captions->TakeNews(&mine);
    parts_.episodes->TakeNews(&mine);
  } else if (parts_.score_queue != nullptr) {
    parts_.score_queue->TakeAll(mine.mutable_scores());
  }
  SIBYL_ASSIGN_OR_RETURN(const std::vector<std::string> said, parts_.collective->Gather(mine.SerializeAsString()));
  for (int rank = leads ? 1 : 0; rank < (leads ? parts_.collective->ranks() : 1); ++rank) {
    v1::RankNews news;
    if (!news.ParseFromString(said[rank])) {
      return absl::InternalError(absl::StrCat("the news of learner ", rank, " cannot be read; use one release"));
    }
    if (leads) {
      parts_.captions->AddNews(news);
      parts_.episodes->Add(news.episodes());
      parts_.episodes->Abandon(news.abandoned_episodes());
    } else {
      SIBYL_RETURN_IF_ERROR(scores_->Add(std::move(*news.mutable_scores()), StepsHere()));
    }
  }
  return absl::OkStatus();
}

uint64_t TrainingLoop::StepsHere() const {
  return steps() / static_cast<uint64_t>(parts_.collective == nullptr ? 1 : parts_.collective->ranks());
}

absl::Status TrainingLoop::Run() {
  Unrolls unrolls;
  while (steps() < parts_.experiment.total_steps()) {
    heartbeat_->Beat();
    const absl::Time waiting = parts_.clock->Now();
    unrolls.clear();
    const bool popped = PopBatch(&unrolls);
    const absl::Time begin = parts_.clock->Now();
    metrics_->wait_seconds.Increment(absl::ToDoubleSeconds(begin - waiting));
    SIBYL_ASSIGN_OR_RETURN(
        const Turn turn, Agree(popped ? parts_.settings.learner.batch_size() : 0, !popped && parts_.unrolls->closed()));
    if (turn.stop) break;
    if (turn.news) SIBYL_RETURN_IF_ERROR(ExchangeNews());
    if (turn.steps == 0) continue;
    SIBYL_RETURN_IF_ERROR(TrainOnce(std::move(unrolls), turn.steps));
    metrics_->update_seconds.Increment(absl::ToDoubleSeconds(parts_.clock->Now() - begin));
    if (parts_.clock->Now() - last_checkpoint_ > absl::Seconds(parts_.settings.learner.checkpoint_seconds())) {
      Checkpoint();
    }
  }
  Checkpoint();
  return parts_.checkpoints == nullptr ? absl::OkStatus() : WriteSummary();
}

absl::Status TrainingLoop::TrainOnce(Unrolls unrolls, uint64_t steps) {
  const double progress = static_cast<double>(this->steps()) / static_cast<double>(parts_.experiment.total_steps());
  Batch batch;
  if (!unrolls.empty()) {
    batch = MakeBatch(parts_.settings, unrolls, *parts_.captions, CoefficientsAt(parts_.settings.reward, progress),
                      parts_.trainer->policy_version(), StepsHere());
    for (const auto& unroll : unrolls) {
      parts_.captions->Unpin(unroll->CaptionRows(static_cast<int>(unroll->log_prob.size())));
    }
    if (!parts_.record_dir.empty()) {
      const std::string path = absl::StrFormat("%s/batch-%012d.safetensors", parts_.record_dir, this->steps());
      SIBYL_RETURN_IF_ERROR(WriteBatch(path, batch, parts_.settings.spec));
    }
    policy_lag_ = batch.mean_policy_lag;
    reward_age_ = batch.mean_reward_age;
  }
  SIBYL_ASSIGN_OR_RETURN(const TrainingStats stats, unrolls.empty() ? parts_.trainer->UpdateWithoutBatch(progress)
                                                                    : parts_.trainer->Update(batch.training, progress));
  parts_.policies->Publish(parts_.trainer->policy(), parts_.trainer->policy_version());
  parts_.unrolls->Release(std::move(unrolls));
  AddTo(batch.sums, &sums_);
  steps_.fetch_add(steps, std::memory_order_relaxed);
  RaiseTo(metrics_->steps, static_cast<double>(this->steps()));
  metrics_->extrinsic_reward.Increment(batch.sums.extrinsic());
  for (int i = 0; i < kChannelCount; ++i) metrics_->channel_rewards[i]->Increment(batch.channel_sums[i]);
  metrics_->dropped.Increment(static_cast<double>(batch.dropped_steps));
  const absl::Time now = parts_.clock->Now();
  if (now - last_curves_ >= kCurvesEvery || this->steps() >= parts_.experiment.total_steps()) Publish(stats, now);
  return absl::OkStatus();
}

void TrainingLoop::Publish(const TrainingStats& stats, absl::Time now) {
  const EpisodeStats::Means means = parts_.episodes->Get();
  LoopMetrics& m = *metrics_;
  RaiseTo(m.episodes, static_cast<double>(means.episodes));
  RaiseTo(m.abandoned, static_cast<double>(means.abandoned));
  RaiseTo(m.train_seconds, TrainSeconds(now));
  m.version.Set(static_cast<double>(parts_.trainer->policy_version()));
  m.success.Set(means.success_rate);
  m.episode_return.Set(means.episode_return);
  m.length.Set(means.length);
  m.lag.Set(policy_lag_);
  m.age.Set(reward_age_);
  m.captions.Set(static_cast<double>(parts_.captions->size()));
  m.caption_bytes.Set(static_cast<double>(parts_.captions->bytes()));
  m.collisions.Set(static_cast<double>(parts_.captions->collisions()));
  m.evicted.Set(static_cast<double>(parts_.captions->evicted()));
  m.caption_text_bytes.Set(static_cast<double>(parts_.captions->text_bytes()));
  m.scores_without_row.Set(static_cast<double>(parts_.captions->scores_without_row()));
  RaiseTo(m.scores_dropped, static_cast<double>(parts_.captions->scores_dropped()));
  m.free_unrolls.Set(parts_.unrolls->free());
  m.unroll_bytes.Set(static_cast<double>(parts_.unrolls->bytes()));
  m.finished_unrolls.Set(parts_.unrolls->finished());
  m.policy_loss.Set(stats.policy_loss);
  m.value_loss.Set(stats.value_loss);
  m.entropy.Set(stats.entropy);
  m.gradient_norm.Set(stats.gradient_norm);
  m.learning_rate.Set(stats.learning_rate);
  m.entropy_coefficient.Set(stats.entropy_coefficient);
  m.mean_ratio.Set(stats.mean_ratio);
  m.mean_value.Set(stats.mean_value);
  m.explained_variance.Set(stats.explained_variance);
  m.intrinsic_share.Set(IntrinsicShare(sums_));
  m.unlabelled_share.Set(UnlabelledShare(sums_));

  std::vector<std::pair<std::string, double>> curves = {
      {"train/steps_per_second",
       Ratio(static_cast<double>(steps() - last_curve_steps_), absl::ToDoubleSeconds(now - last_curves_))},
      {"train/policy_lag", policy_lag_},
      {"train/learning_rate", stats.learning_rate},
      {"train/entropy_coefficient", stats.entropy_coefficient},
      {"loss/policy", stats.policy_loss},
      {"loss/value", stats.value_loss},
      {"policy/entropy", stats.entropy},
      {"policy/gradient_norm", stats.gradient_norm},
      {"policy/mean_ratio", stats.mean_ratio},
      {"policy/mean_value", stats.mean_value},
      {"policy/explained_variance", stats.explained_variance},
      {"policy/ratio_clipped", stats.clip_fraction},
      {"reward/age_steps", reward_age_},
      {"reward/intrinsic_share", IntrinsicShare(sums_)},
      {"reward/unlabelled_share", UnlabelledShare(sums_)},
      {"captions/known", static_cast<double>(parts_.captions->size())}};
  const ChannelCoefficients coefficients = CoefficientsAt(
      parts_.settings.reward, static_cast<double>(steps()) / static_cast<double>(parts_.experiment.total_steps()));
  for (int i = 0; i < kChannelCount; ++i) {
    curves.emplace_back(absl::StrCat("reward/coefficient_", ChannelName(static_cast<Channel>(i))), coefficients[i]);
  }
  // The first episodes to end are the short ones, so means would mislead until about one of each environment has.
  const v1::ActorConfig& actors = parts_.experiment.actor();
  const uint64_t enough =
      std::min(parts_.experiment.learner().episode_window(), actors.processes() * actors.environments());
  if (static_cast<uint64_t>(means.in_window) >= enough) {
    curves.emplace_back("episode/success_rate", means.success_rate);
    curves.emplace_back("episode/return", means.episode_return);
    curves.emplace_back("episode/length", means.length);
    for (const auto& [name, value] : means.figures) curves.emplace_back("episode/" + name, value);
  }
  if (parts_.rewards != nullptr) {
    const v1::RewardModelProgress progress = parts_.rewards->progress();
    curves.emplace_back("captions/asked", static_cast<double>(progress.captions_asked()));
    m.label_share.Set(Ratio(static_cast<double>(progress.captions_asked()), static_cast<double>(steps())));
    curves.emplace_back("captions/labelled", static_cast<double>(progress.captions_labelled()));
  }
  const absl::Status written = parts_.events->Write(static_cast<int64_t>(steps()), now, curves);
  if (!written.ok()) spdlog::warn("learning curves: {}", written.ToString());
  last_curves_ = now;
  last_curve_steps_ = steps();
}

void TrainingLoop::Checkpoint() {
  last_checkpoint_ = parts_.clock->Now();
  if (parts_.checkpoints == nullptr) return;
  v1::LearnerState state;
  state.set_format_version(kLearnerStateVersion);
  *state.mutable_experiment() = parts_.experiment;
  state.set_run_id(parts_.run_id);
  state.set_steps(steps());
  state.set_policy_version(parts_.trainer->policy_version());
  state.set_train_seconds(TrainSeconds(parts_.clock->Now()));
  *state.mutable_reward_sums() = sums_;
  parts_.episodes->Save(&state);
  parts_.checkpoints->Write(std::move(state), parts_.trainer->Snapshot());
}

absl::Status TrainingLoop::WriteSummary() {
  const EpisodeStats::Means means = parts_.episodes->Get();
  const absl::Time now = parts_.clock->Now();
  const double here = absl::ToDoubleSeconds(now - begin_);
  const v1::RewardModelProgress progress =
      parts_.rewards != nullptr ? parts_.rewards->progress() : v1::RewardModelProgress();
  nlohmann::ordered_json summary;
  summary["steps"] = steps();
  summary["steps_per_second"] = Ratio(static_cast<double>(steps() - first_step_), here);
  summary["train_seconds"] = TrainSeconds(now);
  summary["policy_version"] = parts_.trainer->policy_version();
  summary["episodes"] = means.episodes;
  summary["abandoned_episodes"] = means.abandoned;
  summary["success_rate"] = means.success_rate;
  summary["mean_return"] = means.episode_return;
  summary["mean_length"] = means.length;
  summary["captions_seen"] = parts_.captions->size() + parts_.captions->evicted();
  summary["captions_asked"] = progress.captions_asked();
  summary["captions_labelled"] = progress.captions_labelled();
  summary["label_share_of_steps"] = Ratio(static_cast<double>(progress.captions_asked()), static_cast<double>(steps()));
  summary["intrinsic_share_of_reward"] = IntrinsicShare(sums_);
  summary["unlabelled_share_of_steps"] = UnlabelledShare(sums_);
  summary["policy_lag"] = policy_lag_;
  summary["reward_age_steps"] = reward_age_;
  summary["judge"] = progress.judge();
  summary["prompt"] = progress.prompt();
  summary["figures"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : means.figures) summary["figures"][name] = value;
  return WriteFileDurably(parts_.run_dir + "/learner_summary.json", summary.dump(2) + "\n", *parts_.files);
}

}  // namespace sibyl::learner
