#pragma once

#include <cstdint>
#include <vector>

#include "learner/training/training_batch.h"

namespace sibyl::learner {

// Splits a batch into equal parts (a divisor of its unrolls); `seed` decides which unrolls go together.
std::vector<TrainingBatch> Split(const TrainingBatch& batch, int parts, uint64_t seed);

}  // namespace sibyl::learner
