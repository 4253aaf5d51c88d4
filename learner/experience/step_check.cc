#include "learner/experience/step_check.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/status_macros.h"
#include "common/step_flags.h"
#include "common/tensor_spec.h"

namespace sibyl::learner {
namespace {

constexpr unsigned char kEnded = kStepTerminated | kStepTruncated;

// Whether every float of a column is within [low, high], which NaN never is.
absl::Status CheckRange(const char* name, absl::string_view column, double low, double high) {
  for (size_t i = 0; i < CountIn<float>(column); ++i) {
    const float value = EntryOf<float>(column, i);
    if (!(value >= low && value <= high)) {
      return absl::InvalidArgumentError(absl::StrCat(std::isfinite(value) ? "" : "not finite: ", name, " ", i, " is ",
                                                     value, ", must be between ", low, " and ", high));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckEpisode(const v1::EpisodeEnd& episode, size_t row, int figures) {
  if (episode.row() != row) {
    return absl::InvalidArgumentError(
        absl::StrCat("an episode is said to end in row ", episode.row(), ", but the flags say row ", row));
  }
  if (!(std::abs(episode.episode_return()) <= kReturnLimit)) {
    return absl::InvalidArgumentError(absl::StrCat("the return of the episode that ended in row ", row, " is ",
                                                   episode.episode_return(), ", must be finite and at most ",
                                                   kReturnLimit, " in size"));
  }
  if (episode.figures_size() != figures) {
    return absl::InvalidArgumentError(absl::StrCat("the episode that ended in row ", row, " has ",
                                                   episode.figures_size(), " figures, must have ", figures));
  }
  for (double figure : episode.figures()) {
    if (!std::isfinite(figure)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a figure of the episode that ended in row ", row, " is ", figure, ", must be finite"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

StepCheck::StepCheck(const v1::EnvironmentSpec& spec, size_t rows, bool counts_observations, size_t told_rewards)
    : rows_(rows),
      figures_(spec.figures_size()),
      counts_observations_(counts_observations),
      told_rewards_(told_rewards),
      action_(spec.action()) {
  for (const v1::TensorSpec& array : spec.observation()) {
    if (array.dtype() == v1::DTYPE_FLOAT32) floats_.push_back({array.name(), observation_bytes_, Elements(array)});
    if (array.name() == action_.mask()) mask_offset_ = observation_bytes_;
    observation_bytes_ += Bytes(array);
  }
}

absl::Status StepCheck::CheckStep(const v1::StepBatch& step, uint64_t sequence) const {
  if (step.sequence() != sequence) {
    return absl::InvalidArgumentError(
        absl::StrCat("step sequence ", step.sequence(), " of group ", step.group(), ", expected ", sequence));
  }
  if (step.reward().size() != rows_ * sizeof(float) || step.flags().size() != rows_ ||
      step.caption_id().size() != rows_ * sizeof(uint64_t) || step.caption_count().size() != rows_ * sizeof(uint32_t) ||
      step.observation_count().size() != (counts_observations_ ? rows_ * sizeof(uint32_t) : 0) ||
      step.last_rewards().size() != (sequence > 0 ? rows_ * told_rewards_ * sizeof(float) : 0) ||
      step.observation().rows() != rows_) {
    return absl::InvalidArgumentError(absl::StrCat("a step's columns do not have ", rows_, " rows"));
  }
  SIBYL_RETURN_IF_ERROR(CheckRange("reward", step.reward(), -kRewardLimit, kRewardLimit));
  SIBYL_RETURN_IF_ERROR(CheckRange("last reward", step.last_rewards(), -kRewardLimit, kRewardLimit));
  size_t firsts = 0, ends = 0;
  for (size_t row = 0; row < rows_; ++row) {
    const unsigned char flags = step.flags()[row];
    const bool ended = (flags & kEnded) != 0;
    if (ended && sequence == 0) {
      return absl::InvalidArgumentError("a group's first step ends an episode");
    }
    if ((ended || sequence == 0) && (flags & kStepFirst) == 0) {
      return absl::InvalidArgumentError("an ended episode, or a group's first step, without the flag `first`");
    }
    if ((flags & kStepFirst) != 0 && !ended && sequence != 0) {
      return absl::InvalidArgumentError("an episode starts where none ended");
    }
    firsts += (flags & kStepFirst) != 0;
    if (!ended) continue;
    if (static_cast<int>(ends) < step.episodes_size()) {
      SIBYL_RETURN_IF_ERROR(CheckEpisode(step.episodes(static_cast<int>(ends)), row, figures_));
    }
    ++ends;
  }
  if (step.first_caption_id().size() != firsts * sizeof(uint64_t) ||
      step.first_episode().size() != firsts * sizeof(uint64_t) || step.final_observation().rows() != ends ||
      step.episodes_size() != static_cast<int>(ends)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the columns of started and ended episodes do not have ", firsts, " and ", ends, " rows"));
  }
  return absl::OkStatus();
}

absl::Status StepCheck::CheckObservations(absl::string_view observations) const {
  if (floats_.empty()) return absl::OkStatus();
  for (; !observations.empty(); observations.remove_prefix(observation_bytes_)) {
    for (const Floats& array : floats_) {
      for (size_t i = 0; i < array.count; ++i) {
        const float value = EntryOf<float>(observations.substr(array.offset), i);
        if (std::isfinite(value)) continue;
        return absl::InvalidArgumentError(absl::StrCat("element ", i, " of the observation's array `", array.name,
                                                       "` is ", value, ", must be finite"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status StepCheck::CheckMasks(absl::string_view observations) const {
  if (action_.mask().empty()) return absl::OkStatus();
  for (; !observations.empty(); observations.remove_prefix(observation_bytes_)) {
    SIBYL_RETURN_IF_ERROR(CheckMask(action_, observations.substr(mask_offset_)));
  }
  return absl::OkStatus();
}

absl::Status CheckColumns(const v1::UnrollBatch& batch, const UnrollColumns& expected) {
  const size_t cells = size_t(expected.unroll_length) * expected.environments;
  const struct {
    const char* name;
    const std::string& column;
    size_t bytes;
  } columns[] = {
      {"action", batch.action(), cells * ActionBytes(expected.action)},
      {"log_prob", batch.log_prob(), cells * sizeof(float)},
      {"value", batch.value(), cells * expected.value_heads * sizeof(float)},
      {"policy_version", batch.policy_version(), expected.unroll_length * sizeof(uint64_t)},
      {"state", batch.state(), expected.environments * expected.state_size * sizeof(float)},
  };
  for (const auto& [name, column, bytes] : columns) {
    if (column.size() != bytes) {
      return absl::InvalidArgumentError(absl::StrCat("an unroll batch's ", name, " has ", column.size(),
                                                     " bytes, must have ", bytes, " (", expected.unroll_length,
                                                     " steps of ", expected.environments, " environments)"));
    }
  }
  SIBYL_RETURN_IF_ERROR(CheckActions(expected.action, batch.action()));
  SIBYL_RETURN_IF_ERROR(CheckRange("log_prob", batch.log_prob(), kLowestLogProb,
                                   expected.action.has_box() ? kHighestLogDensity : kHighestLogProb));
  SIBYL_RETURN_IF_ERROR(CheckRange("value", batch.value(), -kValueLimit, kValueLimit));
  return CheckRange("state", batch.state(), -kStateLimit, kStateLimit);
}

}  // namespace sibyl::learner
