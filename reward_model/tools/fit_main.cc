// sibyl-fit-reward: trains a reward model on the labels that there are. `sibyl fit-reward` starts it, with an annotator
// that has the labels.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/random.h"
#include "common/runtime/program.h"
#include "common/status_macros.h"
#include "reward_model/questions.h"
#include "reward_model/scoring/learned_model.h"
#include "reward_model/tools/label_log.h"

ABSL_FLAG(std::string, config, "", "The experiment, protobuf text format. Required.");
ABSL_FLAG(std::string, annotator, "", "Address of the annotator, host:port. Required.");
ABSL_FLAG(std::string, run_dir, "", "Folder that reward_model.safetensors is written into. Required.");
ABSL_FLAG(double, held_out, 0.1, "Share of the labels that is not learned from, but tests what was learned.");

namespace sibyl::reward_model {
namespace {

struct Labels {
  CaptionBook book;
  absl::flat_hash_map<uint64_t, Tally> tallies;  // that are learned from, by caption
  std::vector<std::pair<const Caption*, double>> tested_captions;
  Comparisons learned, tested;  // where the kind compares
};

// Which labels test: the same ones of the same log, whatever else is in it.
bool IsTest(const v1::Label& label) {
  uint64_t hash = 0;
  for (const std::string& caption : Captions(label.query())) hash = Mix64(hash ^ CaptionId(caption));
  return static_cast<double>(Mix64(hash) >> 11) / static_cast<double>(uint64_t{1} << 53) <
         absl::GetFlag(FLAGS_held_out);
}

void Take(const v1::RewardModelConfig& config, const v1::Label& label, Labels* labels) {
  if (label.outcome() != v1::OUTCOME_ANSWERED) return;
  std::vector<Caption*> captions;
  for (const std::string& text : Captions(label.query())) {
    labels->book.SetText(CaptionId(text), text, "");
    captions.push_back(labels->book.Find(CaptionId(text)));
    ++captions.back()->count;
  }
  const double goodness = Goodness(config, label);
  if (Compares(config)) {
    const OrderedPair pair = {captions[0]->id, captions[1]->id};
    if (pair.first == pair.second || labels->learned.Find(pair) || labels->tested.Find(pair)) return;
    (IsTest(label) ? labels->tested : labels->learned).Add(pair, {true, goodness});
  } else if (IsTest(label)) {
    labels->tested_captions.emplace_back(captions[0], goodness);
  } else {
    Tally& tally = labels->tallies[captions[0]->id];
    ++tally.answers;
    tally.good_sum += goodness;
  }
}

// Works until there is nothing left to do. Cancelled: a signal came.
absl::Status Finish(LearnedModel& model, const char* doing, const std::stop_token& stop) {
  absl::Time shown = absl::Now();
  while (model.Work() == absl::ZeroDuration()) {
    if (stop.stop_requested()) return absl::CancelledError("stopped before the model was fitted");
    if (absl::Now() - shown < absl::Seconds(5)) continue;
    shown = absl::Now();
    std::fprintf(stderr, "%s: %.0f steps to go\n", doing, std::max(0.0, model.training_steps_due()));
  }
  return absl::OkStatus();
}

std::vector<const Caption*> AllOf(const CaptionBook& book) {
  std::vector<const Caption*> captions;
  for (size_t place = 0; place < book.places(); ++place) captions.push_back(book.At(place));
  return captions;
}

// Share of the test labels that are predicted rightly, ties aside; nullopt where there are none.
std::optional<double> Accuracy(const v1::RewardModelConfig& config, LearnedModel& model, Labels& labels) {
  const std::vector<const Caption*> captions = AllOf(labels.book);
  std::vector<std::optional<float>> scores(captions.size());
  model.Score(captions, absl::MakeSpan(scores));
  absl::flat_hash_map<uint64_t, float> score;
  for (size_t i = 0; i < captions.size(); ++i) score[captions[i]->id] = scores[i].value_or(0);
  double right = 0, all = 0;
  const auto count = [&](bool predicted, double wanted) {
    if (wanted == 0.5) return;
    right += predicted == (wanted > 0.5);
    ++all;
  };
  for (const auto& [pair, comparison] : labels.tested.all()) {
    count(score.at(pair.first) > score.at(pair.second), comparison.first_better);
  }
  for (const auto& [caption, good] : labels.tested_captions) count(score.at(caption->id) > 0.5, good);
  if (all == 0) return std::nullopt;
  return right / all;
}

absl::Status Fit(Program& program) {
  SIBYL_ASSIGN_OR_RETURN(v1::Experiment experiment, LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides));
  v1::RewardModelConfig& config = *experiment.mutable_reward_model();
  if (config.kind() == v1::REWARD_MODEL_KIND_RETRIEVAL) {
    return absl::InvalidArgumentError(
        "reward_model.kind is REWARD_MODEL_KIND_RETRIEVAL, which learns nothing; set REWARD_MODEL_KIND_RANKING or "
        "REWARD_MODEL_KIND_CLASSIFICATION");
  }
  config.clear_weights_file();
  config.mutable_training()->set_cpu_share(1);
  Labels labels;
  uint64_t count = 0;
  SIBYL_RETURN_IF_ERROR(ReadLabelLog(absl::GetFlag(FLAGS_annotator), config, [&](const v1::Label& label) {
    ++count;
    Take(config, label, &labels);
  }));
  if (labels.book.size() == 0) {
    return absl::NotFoundError(absl::StrCat("the log has no answer under reward_model.goal `", config.goal(),
                                            "` from this judge and prompt (", count,
                                            " labels fit); make some with: sibyl annotate"));
  }
  const absl::Time begin = absl::Now();
  LearnedModel model(config, experiment.seed(), program.clock, program.metrics);
  for (const Caption* caption : AllOf(labels.book)) {
    const auto tally = labels.tallies.find(caption->id);
    if (tally != labels.tallies.end()) model.Observe(*caption, tally->second, tally->second.answers);
  }
  for (const auto& [pair, comparison] : labels.learned.all()) {
    model.ObserveComparison(*labels.book.Find(pair.first), *labels.book.Find(pair.second), comparison.first_better);
  }
  SIBYL_RETURN_IF_ERROR(Finish(model, "training", program.stop()));
  if (model.WantsCaptions()) model.OfferCaptions(AllOf(labels.book), /*last=*/true);  // one version, of these captions
  SIBYL_RETURN_IF_ERROR(Finish(model, "scoring", program.stop()));
  if (model.score_version() == 0) return absl::InternalError("nothing was learned; is --held_out too large?");
  SIBYL_RETURN_IF_ERROR(model.Save(absl::GetFlag(FLAGS_run_dir)));
  nlohmann::ordered_json line = {{"labels", count},
                                 {"captions", labels.book.size()},
                                 {"held_out_accuracy", nullptr},
                                 {"training_steps", model.score_version()},
                                 {"seconds", absl::ToDoubleSeconds(absl::Now() - begin)},
                                 {"weights_file", absl::GetFlag(FLAGS_run_dir) + "/reward_model.safetensors"}};
  if (const auto accuracy = Accuracy(config, model, labels)) line["held_out_accuracy"] = *accuracy;
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

absl::Status Run(Program& program) {
  const absl::Status status = Fit(program);
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? UsageError(status) : status;
}

}  // namespace
}  // namespace sibyl::reward_model

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"fit-reward",
                         "Fits a reward model to labels: sibyl-fit-reward --config=FILE [--set field=value ...] "
                         "--annotator=host:port --run_dir=DIR",
                         /*takes_overrides=*/true},
                        sibyl::reward_model::Run);
}
