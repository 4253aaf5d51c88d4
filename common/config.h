#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// Reads a configuration: text format, then overrides ("learner.batch_size=512"; a list is "a,b,c"), then the default of
// every field that is not set, then a check of every value. Paths of files that the configuration names come back
// absolute: relative ones are taken from the configuration file's folder, and those of overrides from the working
// directory. The text of reward_model.goal_file comes back as reward_model.goal.
// InvalidArgument names the field, the value and the remedy; NotFound the file.
absl::StatusOr<v1::Experiment> LoadExperiment(const std::string& path, const std::vector<std::string>& overrides);

// The parts of the above, for configurations that are made in memory.
absl::Status ApplyOverride(const std::string& override, v1::Experiment* experiment);
void FillDefaults(v1::Experiment* experiment);
// Each field's own rule (common/config_fields.h), then what one field asks of another.
absl::Status Validate(const v1::Experiment& experiment);

// Text format with every field that is set.
std::string ExperimentText(const v1::Experiment& experiment);

// The first difference that forbids to go on with a run ("reward_model.goal was `a` and is now `b`"), or "" where there
// is none. A field's rule in experiment.proto says whether it may change. A field that is not set has its default.
std::string ResumeDifference(v1::Experiment was, v1::Experiment is);

// Whether captions earn anything at any time of the run, so that a reward model is needed.
inline bool RewardsCaptions(const v1::Experiment& experiment) {
  return experiment.reward().intrinsic_coefficient() > 0 || experiment.reward().final_intrinsic_coefficient() > 0;
}

// Whether the judge is a model that runs beside training, so that its server is started with the run.
inline bool RunsBesideTraining(const v1::AnnotatorConfig& annotator) {
  return annotator.judge() == v1::JUDGE_KIND_EMBEDDED ||
         (annotator.judge() == v1::JUDGE_KIND_SIMILARITY && annotator.openai().url().empty() &&
          annotator.openai().endpoints().empty());
}

// Whether a judge is asked what captions are worth, so that an annotator is needed.
inline bool AsksJudge(const v1::Experiment& experiment) {
  return RewardsCaptions(experiment) && experiment.reward_model().weights_file().empty();
}

}  // namespace sibyl
