#pragma once

#include "absl/status/status.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl::learner {

// Whether a step of `rows` environments keeps to what act.proto says of StepBatch and has this sequence.
// InvalidArgument says what does not. Observations are checked when they are unpacked.
absl::Status CheckStep(const v1::StepBatch& batch, size_t rows, uint64_t sequence);

}  // namespace sibyl::learner
