#pragma once

#include "sibyl/v1/experiment.pb.h"

// The sizes that follow from a valid configuration, and each rank's part where several learners train together.
namespace sibyl::learner {

// Unrolls of a training batch.
inline int UnrollsPerBatch(const v1::LearnerConfig& learner) {
  return static_cast<int>(learner.batch_size() / learner.unroll_length());
}

// Threads that train on a CPU: learner.training_threads. Where that is 0: one for each core that the process may use,
// at most eight, and few enough that each has four unrolls.
int TrainingThreads(const v1::LearnerConfig& learner);

// The experiment of one of learner.ranks learners: its part of the actors and of the batch, and a seed of its own.
v1::Experiment ExperimentOfRank(v1::Experiment experiment, int rank);

// The unrolls that there must be room for when so many environments play, and the unrolls of a batch and the
// environments of a group are so many.
//
// Nothing can wait for ever: a group asks for unrolls only when it has handed over all it had, and training takes a
// batch as soon as one is finished and releases it after the update. So when every group waits, fewer than `batch`
// unrolls are in use, at least `environments` are free, and no group is larger than that. This holds for actors of both
// kinds; the environments of a local actor are one group.
//
// The larger of a batch and a group is room for training beside the environments. A batch of more unrolls than there
// are environments has room twice, so that the next batch is played during an update. More room would only let
// experience grow older.
int UnrollsNeeded(int environments, int batch, int group);

}  // namespace sibyl::learner
