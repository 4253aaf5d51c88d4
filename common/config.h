#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl {

// Reads a configuration: text format, then overrides ("learner.batch_size=512"; a list is "a,b,c"), then the default
// of every field that is not set, then a check of every value. Paths of files that the configuration names
// (rules_file, prompt_file) come back absolute: relative ones are taken from the configuration file's folder, and those
// of overrides from the working directory.
// InvalidArgument names the field, the value and the remedy; NotFound the file.
absl::StatusOr<v1::Experiment> LoadExperiment(const std::string& path, const std::vector<std::string>& overrides);

// The parts of the above, for configurations that are made in memory.
absl::Status ApplyOverride(const std::string& override, v1::Experiment* experiment);
void FillDefaults(v1::Experiment* experiment);
absl::Status Validate(const v1::Experiment& experiment);

// Text format with every field that is set.
std::string ExperimentText(const v1::Experiment& experiment);

// The first difference that forbids to go on with a run ("reward_model.goal was `a` and is now `b`"), or "" where there
// is none. Fields that may change between resumes: total_steps, actor.processes and inference, checkpointing, threads,
// batching waits, device, request limits.
std::string ResumeDifference(v1::Experiment was, v1::Experiment is);

// Environments that all actors play together.
inline int TotalEnvironments(const v1::Experiment& experiment) {
  return static_cast<int>(experiment.actor().processes() * experiment.actor().environments());
}

// Unrolls of a training batch.
inline int UnrollsPerBatch(const v1::LearnerConfig& learner) {
  return static_cast<int>(learner.batch_size() / learner.unroll_length());
}

// Whether captions earn anything, so that a reward model is needed.
inline bool RewardsCaptions(const v1::Experiment& experiment) {
  return experiment.reward().intrinsic_coefficient() > 0;
}

// Whether a judge is asked what captions are worth, so that an annotator is needed.
inline bool AsksJudge(const v1::Experiment& experiment) {
  return RewardsCaptions(experiment) && experiment.reward_model().weights_file().empty();
}

// Values that a policy tells of an observation (V): of the total reward, or of extrinsic and intrinsic reward.
inline int ValueCount(const v1::PolicyConfig& policy) {
  return policy.value_heads() == v1::VALUE_HEADS_SEPARATE ? 2 : 1;
}

// Threads that train on a CPU: learner.training_threads, or where that is 0 one a core, at most eight, each with four
// unrolls at least.
int TrainingThreads(const v1::LearnerConfig& learner);

// What one of learner.ranks learners does: its share of the actors and of the batch, seeds that no other one has.
v1::Experiment RankShare(v1::Experiment experiment, int rank);

// Unroll slots without which training could stop for ever. Each environment holds one, and a group whose unrolls end
// asks for as many new ones before it gives the old ones up; training takes a batch as soon as one is finished, and
// gives its slots back when the update is done. So nothing moves for ever only where less than a batch is finished and
// less than a group's unrolls are free. Finished ones come by whole groups: where one of the two sizes divides the
// other, the larger one is enough besides the environments, else both. A batch of more unrolls than there are
// environments has its slots twice over, so that the next one is played during an update. More than that would only let
// experience grow older.
inline int UnrollSlotsNeeded(const v1::Experiment& experiment) {
  const int batch = UnrollsPerBatch(experiment.learner());
  const int group = static_cast<int>(experiment.actor().environments() / experiment.actor().groups());
  const bool fit = batch % group == 0 || group % batch == 0;
  const int filled = std::max(TotalEnvironments(experiment), batch);
  return filled + (fit ? std::max(batch, group) : batch + group);
}

}  // namespace sibyl
