#include "learner/sizes.h"

#include <algorithm>

#include "common/cores.h"
#include "common/random.h"

namespace sibyl::learner {

int TrainingThreads(const v1::LearnerConfig& learner) {
  if (learner.training_threads() > 0) return static_cast<int>(learner.training_threads());
  const int unrolls = UnrollsPerBatch(learner) / static_cast<int>(learner.minibatches());
  return std::clamp(std::min(AvailableCores(), unrolls / 4), 1, 8);
}

v1::Experiment ExperimentOfRank(v1::Experiment experiment, int rank) {
  v1::LearnerConfig& learner = *experiment.mutable_learner();
  experiment.mutable_actor()->set_processes(experiment.actor().processes() / learner.ranks());
  learner.set_batch_size(learner.batch_size() / learner.ranks());
  if (rank > 0) experiment.set_seed(Mix64(experiment.seed() ^ Mix64(static_cast<uint64_t>(rank))));
  return experiment;
}

int UnrollsNeeded(int environments, int batch, int group) {
  return std::max(environments, batch) + std::max(batch, group);
}

}  // namespace sibyl::learner
