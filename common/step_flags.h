#pragma once

namespace sibyl {

// The bits of StepBatch.flags (act.proto), one byte for each environment. A step that ends an episode has one of the
// first two and kStepFirst, because the observation beside it starts the next episode.
inline constexpr unsigned char kStepTerminated = 1;
inline constexpr unsigned char kStepTruncated = 2;
inline constexpr unsigned char kStepFirst = 4;

}  // namespace sibyl
