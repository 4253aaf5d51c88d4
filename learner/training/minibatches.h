#pragma once

#include <cstdint>
#include <vector>

#include "learner/training/training_batch.h"

namespace sibyl::learner {

// Splits a batch into `parts` equal parts; `parts` divides the batch's unrolls. `seed` decides which unrolls go
// together.
std::vector<TrainingBatch> Split(const TrainingBatch& batch, int parts, uint64_t seed);

}  // namespace sibyl::learner
