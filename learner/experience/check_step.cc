#include "learner/experience/check_step.h"

#include "absl/strings/str_cat.h"
#include "common/columns.h"

namespace sibyl::learner {

absl::Status CheckStep(const v1::StepBatch& batch, size_t rows, uint64_t sequence) {
  if (batch.sequence() != sequence) {
    return absl::InvalidArgumentError(
        absl::StrCat("step sequence ", batch.sequence(), " of group ", batch.group(), ", expected ", sequence));
  }
  if (batch.reward().size() != rows * sizeof(float) || batch.flags().size() != rows ||
      batch.caption_id().size() != rows * sizeof(uint64_t) || batch.caption_count().size() != rows * sizeof(uint32_t) ||
      batch.observation().rows() != rows) {
    return absl::InvalidArgumentError(absl::StrCat("a step's columns do not have ", rows, " rows"));
  }
  size_t firsts = 0, ends = 0;
  for (unsigned char flags : batch.flags()) {
    const bool ended = (flags & (kTerminated | kTruncated)) != 0;
    if (ended && batch.sequence() == 0) {
      return absl::InvalidArgumentError("a group's first step ends an episode");
    }
    if ((ended || batch.sequence() == 0) && (flags & kFirst) == 0) {
      return absl::InvalidArgumentError("an ended episode, or a group's first step, without the flag `first`");
    }
    if ((flags & kFirst) != 0 && !ended && batch.sequence() != 0) {
      return absl::InvalidArgumentError("an episode starts where none ended");
    }
    firsts += (flags & kFirst) != 0;
    ends += ended;
  }
  if (batch.first_caption_id().size() != firsts * sizeof(uint64_t) ||
      batch.first_episode().size() != firsts * sizeof(uint64_t) || batch.final_observation().rows() != ends ||
      batch.episodes_size() != static_cast<int>(ends)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the columns of started and ended episodes do not have ", firsts, " and ", ends, " rows"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl::learner
