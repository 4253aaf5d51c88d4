#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/tensor.pb.h"
#include "sibyl/v1/unroll.pb.h"

// Everything that comes from an actor is checked here, before any of it is written down. Numbers must be finite and
// within the ranges below, so that a broken actor costs its own stream and never the run.

namespace sibyl::learner {

// Greatest absolute values.
inline constexpr double kRewardLimit = 1e9, kReturnLimit = 1e18, kValueLimit = 1e9, kStateLimit = 1e6;
// Lowest log-probability of an action, and the highest: 0 and what rounding may add. A density is within +-1e4.
inline constexpr double kLowestLogProb = -1e4, kHighestLogProb = 1e-3, kHighestLogDensity = 1e4;

class StepCheck {
 public:
  // `rows`: environments of a group. `counts_observations`: whether steps bring StepBatch.observation_count.
  // `told_rewards`: R of StepBatch.last_rewards; 0: steps do not bring it.
  StepCheck(const v1::EnvironmentSpec& spec, size_t rows, bool counts_observations, size_t told_rewards);

  // Whether a step keeps to what act.proto says of StepBatch, and has this sequence. InvalidArgument names the column,
  // the row and the value that do not fit. Observations are checked by CheckObservations.
  absl::Status CheckStep(const v1::StepBatch& step, uint64_t sequence) const;

  // Whether the numbers in unpacked observations are finite. `observations`: a whole number of them, one after another.
  absl::Status CheckObservations(absl::string_view observations) const;
  // Whether each of these observations that will be acted on leaves the policy a legal choice (ActionSpec.mask).
  absl::Status CheckMasks(absl::string_view observations) const;

 private:
  struct Floats {  // an array of float32 within an observation
    std::string name;
    size_t offset, count;
  };

  const size_t rows_;
  const int figures_;
  const bool counts_observations_;
  const size_t told_rewards_;
  size_t observation_bytes_ = 0;
  const v1::ActionSpec action_;
  size_t mask_offset_ = 0;  // in an observation, where action_ has a mask
  std::vector<Floats> floats_;
};

// Whether the columns beside the steps of a local actor's batch keep to what unroll.proto says of UnrollBatch: action,
// log_prob, value, policy_version, state. InvalidArgument as above.
struct UnrollColumns {
  int unroll_length, environments;
  v1::ActionSpec action;
  size_t value_heads;
  int64_t state_size;
};
absl::Status CheckColumns(const v1::UnrollBatch& batch, const UnrollColumns& expected);

}  // namespace sibyl::learner
