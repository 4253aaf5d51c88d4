#pragma once

#include "sibyl/v1/experiment.pb.h"

// What follows from a valid configuration: the sizes of a learner, and what falls to it where several train together.
namespace sibyl::learner {

// Unrolls of a training batch.
inline int UnrollsPerBatch(const v1::LearnerConfig& learner) {
  return static_cast<int>(learner.batch_size() / learner.unroll_length());
}

// Threads that train on a CPU: learner.training_threads, or where that is 0 one for each core that the process may use,
// at most eight, and each with four unrolls at least.
int TrainingThreads(const v1::LearnerConfig& learner);

// What one of learner.ranks learners does: its share of the actors and of the batch, and a seed that no other learner
// has.
v1::Experiment RankShare(v1::Experiment experiment, int rank);

// Unroll slots without which training could stop for ever. Each environment holds one slot. A group whose unrolls end
// asks for as many new slots before it gives the old ones up. Training takes a batch as soon as one is finished, and
// gives its slots back when the update is done. So nothing moves for ever only where less than a batch is finished and
// less than a group's unrolls are free. Unrolls are finished by whole groups: where one of the two sizes divides the
// other, the larger one is enough besides the environments, else both are needed. A batch of more unrolls than there
// are environments has its slots twice over, so that the next batch is played during an update. More slots than that
// only let experience grow older.
int UnrollSlotsNeeded(const v1::Experiment& experiment);

}  // namespace sibyl::learner
