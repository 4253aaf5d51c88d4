#include "reward_model/scoring/learned_model.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "reward_model/questions.h"

namespace sibyl::reward_model {
namespace {

// Texts that go through the networks at a time, and new labels that are predicted before they are learned from.
constexpr size_t kPiece = 256;
constexpr char kFile[] = "/reward_model.safetensors";
constexpr size_t kPrequentialWindow = 1000;
constexpr double kLargestWeight = 10;
constexpr absl::Duration kIdle = absl::Milliseconds(20);

absl::Duration ThreadCpuTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// DataLoss names the first array that has a number which is not finite.
absl::Status CheckFinite(const TensorFile& file) {
  for (const auto& [name, tensor] : file.tensors) {
    if (!tensor.is_floating_point() || tensor.isfinite().all().item<bool>()) continue;
    return absl::DataLossError(
        absl::StrCat(file.path, ": ", name, " is not finite; fit the model anew, or take the file from a backup"));
  }
  return absl::OkStatus();
}

}  // namespace

LearnedModelMetrics::LearnedModelMetrics(Metrics& m)
    : examples(m.Gauge("sibyl_reward_model_examples", "Labels that the networks learn from: captions, or pairs.")),
      training_steps(m.Counter("sibyl_reward_model_training_steps_total", "Optimiser steps, of each network one.")),
      training_steps_due(m.Gauge("sibyl_reward_model_training_steps_due",
                                 "Optimiser steps of every network that the labels so far still ask for.")),
      loss(m.Gauge("sibyl_reward_model_loss", "Cross-entropy of the last training batch, in nats.")),
      accuracy(m.Gauge("sibyl_reward_model_prequential_accuracy",
                       "Share of the last 1000 labels that were predicted before they were learned from.")),
      calibration_error(m.Gauge("sibyl_reward_model_prequential_calibration_error",
                                "Expected calibration error (ten bins) of those predictions.")),
      good_share(m.Gauge("sibyl_reward_model_prequential_good_share",
                         "Mean target of those labels: how many are good, or prefer the first of a pair.")),
      disagreement(m.Gauge("sibyl_reward_model_disagreement",
                           "Mean deviation between the networks' scores, over the captions of the last version.")),
      score_mean(m.Gauge("sibyl_reward_model_score_mean", "Mean score, captions weighing as often as they were seen.")),
      score_deviation(m.Gauge("sibyl_reward_model_score_deviation", "Deviation of the scores, weighed the same way.")),
      captions_scored(m.Counter("sibyl_reward_model_captions_scored_total", "Captions scored, again or anew.")),
      cpu_seconds(m.Counter("sibyl_reward_model_learning_cpu_seconds_total", "CPU time of learning and scoring.")) {}

LearnedModel::LearnedModel(const v1::RewardModelConfig& config, uint64_t seed, Clock& clock, Metrics& metrics)
    : config_(config),
      ranking_(Compares(config)),
      frozen_(!config.weights_file().empty()),
      seed_(seed),
      clock_(clock),
      metrics_(metrics),
      random_(seed),
      prequential_(kPrequentialWindow) {
  MutexLock work(work_mutex_);
  StartOver();
  MutexLock lock(mutex_);
  transform_.set_deviation(1);
  transform_.set_binary(config.binary());
}

void LearnedModel::StartOver() {
  model_ = std::make_unique<TextModel>(config_.kind(), config_.training(), seed_);
  moments_ = {torch::zeros({model_->size()}), torch::ones({model_->size()})};
  version_moments_ = torch::tensor({0.0f, 1.0f});
  examples_.clear();
  oldest_example_ = 0;
  example_of_.clear();
  good_sum_ = due_ = 0;
  prequential_ = Prequential(kPrequentialWindow);
  trained_ = false;
  version_captions_.clear();
  version_scores_.clear();
}

// --- What comes in, and goes out ---

std::string LearnedModel::kind() const { return ranking_ ? "ranking" : "classification"; }

void LearnedModel::Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) {
  if (ranking_ || frozen_ || new_answers == 0 || caption.text().empty()) return;
  MutexLock lock(mutex_);
  incoming_.push_back({{caption.id, caption.shared_text}, {}, static_cast<float>(tally.good_sum / tally.answers)});
}

void LearnedModel::ObserveComparison(const Caption& first, const Caption& second, double first_better) {
  if (frozen_ || first.text().empty() || second.text().empty()) return;
  MutexLock lock(mutex_);
  incoming_.push_back(
      {{first.id, first.shared_text}, {second.id, second.shared_text}, static_cast<float>(first_better)});
}

void LearnedModel::Restart() {
  if (frozen_) return;
  MutexLock lock(mutex_);
  incoming_.clear();
  restarted_ = true;
  scores_.clear();
  wanted_.clear();
  changed_.clear();
  version_ = 0;
  wants_captions_ = false;
  seen_.clear();
}

void LearnedModel::Forget(uint64_t id) {
  MutexLock lock(mutex_);
  scores_.erase(id);
  changed_.erase(id);
}

void LearnedModel::Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < captions.size(); ++i) {
    scores[i] = std::nullopt;
    if (version_ == 0 || captions[i]->text().empty()) continue;
    ScoreEntry& entry = scores_[captions[i]->id];
    if (entry.version > 0) scores[i] = entry.score;
    if (entry.version < version_ && !entry.wanted) {
      entry.wanted = true;
      wanted_.push_back({captions[i]->id, captions[i]->shared_text});
    }
  }
}

v1::RewardTransform LearnedModel::transform() const {
  MutexLock lock(mutex_);
  return transform_;
}

uint64_t LearnedModel::score_version() const {
  MutexLock lock(mutex_);
  return version_;
}

bool LearnedModel::WantsCaptions() const {
  MutexLock lock(mutex_);
  return wants_captions_;
}

void LearnedModel::OfferCaptions(absl::Span<const Caption* const> piece, bool last) {
  MutexLock lock(mutex_);
  if (!wants_captions_) return;
  for (const Caption* caption : piece) {
    if (caption->count == 0 || caption->text().empty()) continue;
    seen_.push_back({{caption->id, caption->shared_text}, caption->count, caption->last_step});
  }
  if (last) wants_captions_ = false;
}

std::vector<uint64_t> LearnedModel::TakeChanged(size_t limit) {
  MutexLock lock(mutex_);
  std::vector<uint64_t> changed;
  for (auto it = changed_.begin(); it != changed_.end() && changed.size() < limit;) {
    changed.push_back(*it);
    changed_.erase(it++);
  }
  return changed;
}

bool LearnedModel::IsStale(const Caption& caption) const {
  MutexLock lock(mutex_);
  if (version_ == 0 || caption.text().empty()) return false;
  const auto it = scores_.find(caption.id);
  return it == scores_.end() || (it->second.version < version_ && !it->second.wanted);
}

double LearnedModel::Uncertainty(const Caption& caption, const Caption* other) const {
  MutexLock lock(mutex_);
  double score = 0, disagreement = 0;
  for (const auto& [one, sign] : {std::pair(&caption, 1), std::pair(other, -1)}) {
    if (one == nullptr) continue;
    const auto it = scores_.find(one->id);
    if (it == scores_.end() || it->second.version == 0) return std::numeric_limits<double>::infinity();
    score += sign * it->second.score;
    disagreement += it->second.disagreement;
  }
  if (config_.training().ensemble() > 1) return disagreement;
  // One network: how close to a coin's toss.
  const double p = ranking_ ? 1 / (1 + std::exp(-score)) : score;
  return p * (1 - p);
}

// --- The work ---

absl::Duration LearnedModel::Work() {
  // Without a pause this thread would take the mutex again before one that waits for it.
  if (saving_) return kIdle;
  MutexLock lock(work_mutex_);
  const absl::Duration before = ThreadCpuTime();
  bool worked = TakeExamples() || ScoreWanted();
  absl::Duration* counted = nullptr;
  if (!worked && ScoreVersion()) {
    worked = true;
    counted = &version_cpu_;
  } else if (!worked && Train()) {
    worked = true;
    counted = &training_cpu_;
  }
  metrics_.examples.Set(static_cast<double>(examples_.size()));
  metrics_.training_steps_due.Set(due_);
  if (!worked) return kIdle;
  const absl::Duration used = ThreadCpuTime() - before;
  if (counted != nullptr) *counted += used;
  metrics_.cpu_seconds.Increment(absl::ToDoubleSeconds(used));
  return used * (1 / config_.training().cpu_share() - 1);
}

void LearnedModel::Add(const Example& example) {
  const bool full = examples_.size() == kMaxExamples;
  const auto [it, is_new] = example_of_.emplace(example.key(), full ? oldest_example_ : examples_.size());
  if (is_new && !full) {
    examples_.push_back(example);
  } else {
    Example& old = examples_[it->second];
    good_sum_ -= old.target;
    if (is_new) {
      example_of_.erase(old.key());
      oldest_example_ = (oldest_example_ + 1) % kMaxExamples;
    }
    old = example;
  }
  good_sum_ += example.target;
  due_ += config_.training().passes() / std::min<double>(config_.training().batch_size(), examples_.size());
}

// Takes in the labels that have come. Those that networks with some training have not seen test them first.
bool LearnedModel::TakeExamples() {
  std::vector<Example> incoming;
  {
    MutexLock lock(mutex_);
    if (std::exchange(restarted_, false)) StartOver();
    incoming.swap(incoming_);
  }
  if (incoming.empty()) return false;
  if (model_->steps() > 0) {
    std::vector<Text> first, second;
    for (const Example& example : incoming) {
      if (example_of_.contains(example.key()) || first.size() == kPiece) continue;
      first.push_back(example.first);
      second.push_back(example.second);
    }
    if (!first.empty()) {
      torch::Tensor score = RawScores(first);
      if (ranking_) score = score - RawScores(second);
      const torch::Tensor predicted = score.sigmoid().mean(0);
      size_t next = 0;
      for (const Example& example : incoming) {
        if (next == first.size()) break;
        if (example.first.id != first[next].id || example.second.id != second[next].id) continue;
        prequential_.Add(predicted[static_cast<int64_t>(next++)].item<double>(), example.target);
      }
    }
    metrics_.accuracy.Set(prequential_.Accuracy());
    metrics_.calibration_error.Set(prequential_.CalibrationError());
    metrics_.good_share.Set(prequential_.GoodShare());
  }
  for (const Example& example : incoming) Add(example);
  return true;
}

bool LearnedModel::Train() {
  if (due_ <= 0 || examples_.empty()) return false;
  const auto& training = config_.training();
  const size_t n = std::min<size_t>(training.batch_size(), examples_.size());
  // A caption that is in several examples goes through the network once.
  std::vector<Text> texts;
  absl::flat_hash_map<uint64_t, int64_t> row_of;
  const auto row = [&](const Text& text) {
    const auto [it, is_new] = row_of.emplace(text.id, static_cast<int64_t>(texts.size()));
    if (is_new) texts.push_back(text);
    return it->second;
  };
  std::vector<int64_t> first, second;
  std::vector<float> targets;
  for (size_t i = 0; i < n; ++i) {
    const Example& example = examples_[n < examples_.size() ? random_.Below(examples_.size()) : i];
    first.push_back(row(example.first));
    if (ranking_) second.push_back(row(example.second));
    targets.push_back(example.target);
  }
  const torch::Tensor target = torch::tensor(targets);
  torch::Tensor weight = torch::ones_like(target);
  if (!ranking_ && training.balance()) {
    weight = BalancingWeights(target, good_sum_ / static_cast<double>(examples_.size()), kLargestWeight);
  }
  const double loss = model_->Train(next_network_, Encode(texts), torch::tensor(first),
                                    ranking_ ? torch::tensor(second) : torch::Tensor(), target, weight);
  metrics_.loss.Set(loss);
  if (!std::isfinite(loss)) {
    throw std::runtime_error(absl::StrCat("the loss is ", loss, " after ", model_->steps(),
                                          " steps; lower reward_model.training.learning_rate"));
  }
  next_network_ = (next_network_ + 1) % model_->size();
  due_ -= 1.0 / model_->size();
  trained_ = true;
  metrics_.training_steps.Increment();
  return true;
}

// Scores captions that appeared since the last version, or reappeared.
bool LearnedModel::ScoreWanted() {
  std::vector<Text> texts;
  uint64_t version;
  {
    MutexLock lock(mutex_);
    if (wanted_.empty()) return false;
    const size_t rest = wanted_.size() - std::min(wanted_.size(), kPiece);
    texts.assign(wanted_.begin() + static_cast<ptrdiff_t>(rest), wanted_.end());
    wanted_.resize(rest);
    version = version_;
  }
  const Scored scored = Combine(RawScores(texts));
  MutexLock lock(mutex_);
  if (!restarted_) SetScores(texts, scored, version);
  return true;
}

// Goes on with the next version, one piece at a time: asks for the counts, scores, shows.
bool LearnedModel::ScoreVersion() {
  if (version_captions_.empty()) {
    MutexLock lock(mutex_);
    if (seen_.empty() || wants_captions_) {
      const bool time = clock_.Now() - version_at_ >= absl::Seconds(config_.training().version_seconds());
      // Versions take half of what is spent at most, as long as there is training to be done.
      wants_captions_ |= trained_ && time && (due_ <= 0 || training_cpu_ >= version_cpu_);
      return false;
    }
    version_captions_.swap(seen_);
    version_cpu_ = training_cpu_ = absl::ZeroDuration();
    trained_ = false;
    std::sort(version_captions_.begin(), version_captions_.end(),
              [](const Seen& a, const Seen& b) { return a.last_step > b.last_step; });
    const uint64_t newest = version_captions_[0].last_step, reach = config_.training().rescore_steps();
    const auto is_old = [&](const Seen& seen) { return newest - seen.last_step > reach; };
    version_captions_.erase(std::find_if(version_captions_.begin(), version_captions_.end(), is_old),
                            version_captions_.end());
  }
  std::vector<Text> piece;
  for (size_t i = version_scores_.size() * kPiece; i < version_captions_.size() && piece.size() < kPiece; ++i) {
    piece.push_back(version_captions_[i].text);
  }
  version_scores_.push_back(RawScores(piece));
  if (version_scores_.size() * kPiece >= version_captions_.size()) ShowVersion();
  return true;
}

void LearnedModel::ShowVersion() {
  const torch::Tensor raw = torch::cat(version_scores_, 1);
  std::vector<Text> texts;
  std::vector<double> counts;
  for (const Seen& seen : version_captions_) {
    texts.push_back(seen.text);
    counts.push_back(static_cast<double>(seen.count));
  }
  const torch::Tensor count = torch::tensor(counts, torch::kFloat64);
  if (ranking_) moments_ = WeightedMoments(raw, count);
  const Scored scored = Combine(raw);
  const Moments all = WeightedMoments(scored.score.unsqueeze(0), count);
  version_moments_ = torch::cat({all.mean, all.deviation}).to(torch::kFloat32);
  metrics_.disagreement.Set(scored.disagreement.mean().item<double>());
  version_captions_.clear();
  version_scores_.clear();
  version_at_ = clock_.Now();

  MutexLock lock(mutex_);
  if (restarted_) return;
  ShowMoments();
  SetScores(texts, scored, version_);
}

// The version is that of the weights as they are, and scores are normalised by its moments.
void LearnedModel::ShowMoments() {
  const float mean = version_moments_[0].item<float>(), deviation = version_moments_[1].item<float>();
  metrics_.score_mean.Set(mean);
  metrics_.score_deviation.Set(deviation);
  version_ = static_cast<uint64_t>(model_->steps());
  if (!ranking_) return;
  transform_.set_mean(mean);
  transform_.set_deviation(deviation);
}

torch::Tensor LearnedModel::Encode(absl::Span<const Text> texts) const {
  // Filled up to a power of two: LibTorch keeps a kernel for every number of rows that it has seen.
  std::vector<absl::string_view> rows(absl::bit_ceil(texts.size()));
  for (size_t i = 0; i < texts.size(); ++i) rows[i] = *texts[i].text;
  return EncodeTexts(rows, config_.training().text_length());
}

torch::Tensor LearnedModel::RawScores(absl::Span<const Text> texts) {
  return model_->Score(Encode(texts)).slice(1, 0, static_cast<int64_t>(texts.size()));
}

LearnedModel::Scored LearnedModel::Combine(const torch::Tensor& raw) const {
  const torch::Tensor scores =
      ranking_ ? (raw - moments_.mean.unsqueeze(1)) / moments_.deviation.unsqueeze(1) : raw.sigmoid();
  return {EnsembleOf(scores, config_.training().ensemble_score(), config_.training().ensemble_bound()),
          Disagreement(scores)};
}

void LearnedModel::SetScores(absl::Span<const Text> texts, const Scored& scored, uint64_t version) {
  const auto score = scored.score.accessor<float, 1>(), disagreement = scored.disagreement.accessor<float, 1>();
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    if (!std::isfinite(score[row])) {
      throw std::runtime_error(absl::StrCat("the score of `", *texts[i].text, "` is ", score[row]));
    }
    // A caption that still waits to be scored stays in the line, and is taken out there.
    scores_[texts[i].id] = {score[row], disagreement[row], version, false};
    changed_.insert(texts[i].id);
  }
  metrics_.captions_scored.Increment(static_cast<double>(texts.size()));
}

// --- Checkpoints ---

NamedTensors LearnedModel::Tensors() const {
  NamedTensors tensors = model_->tensors();
  tensors.emplace_back("score/mean", moments_.mean);
  tensors.emplace_back("score/deviation", moments_.deviation);
  tensors.emplace_back("score/version_moments", version_moments_);
  return tensors;
}

absl::Status LearnedModel::Save(const std::string& run_dir) {
  if (frozen_) return absl::OkStatus();
  NamedTensors copies;
  std::map<std::string, std::string> metadata = {{"kind", kind()}, {"goal", config_.goal()}};
  saving_ = true;
  {
    MutexLock lock(work_mutex_);
    saving_ = false;
    for (const auto& [name, tensor] : Tensors()) copies.emplace_back(name, tensor.detach().clone().contiguous());
    metadata["training_steps_due"] = absl::StrCat(due_);
  }
  return WriteTensors(absl::StrCat(run_dir, kFile), copies, metadata);
}

absl::Status LearnedModel::Load(const std::string& run_dir) {
  const absl::StatusOr<TensorFile> file = ReadTensors(frozen_ ? config_.weights_file() : absl::StrCat(run_dir, kFile));
  if (!frozen_ && absl::IsNotFound(file.status())) return absl::OkStatus();
  SIBYL_RETURN_IF_ERROR(file.status());
  SIBYL_RETURN_IF_ERROR(CheckFinite(*file));
  MutexLock lock(work_mutex_);
  if (frozen_) {
    const auto goal = file->metadata.find("goal");
    if (goal == file->metadata.end() || goal->second != config_.goal()) {
      return absl::FailedPreconditionError(
          absl::StrCat(file->path, " was fitted to the goal `", goal == file->metadata.end() ? "" : goal->second,
                       "`, reward_model.goal is `", config_.goal(), "`; set that, or fit anew"));
    }
    SIBYL_RETURN_IF_ERROR(CopyTensors(*file, Tensors(), /*all=*/true));
    MutexLock shown(mutex_);
    ShowMoments();
    return absl::OkStatus();
  }
  TakeExamples();
  const double asked_for = due_;
  SIBYL_RETURN_IF_ERROR(CopyTensors(*file, Tensors(), /*all=*/true));
  const auto due = file->metadata.find("training_steps_due");
  if (due == file->metadata.end() || !absl::SimpleAtod(due->second, &due_)) {
    return absl::DataLossError(absl::StrCat(file->path, " does not say its training_steps_due"));
  }
  // The labels are written after this file: it is too old for the last of them where this process was killed between.
  due_ = std::max(due_, asked_for - static_cast<double>(model_->steps()) / model_->size());
  trained_ = model_->steps() > 0;
  return absl::OkStatus();
}

}  // namespace sibyl::reward_model
