#include "common/checkpoints.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl {

std::vector<std::string> CheckpointNames(const std::string& run_dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/checkpoints", error)) {
    const std::string name = entry.path().filename().string();
    absl::string_view digits = name;
    uint64_t steps = 0;
    if (absl::ConsumePrefix(&digits, "checkpoint-") && absl::SimpleAtoi(digits, &steps)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> NewestCheckpoint(const std::string& run_dir) {
  const std::vector<std::string> names = CheckpointNames(run_dir);
  if (names.empty()) return absl::NotFoundError(absl::StrCat("there is no checkpoint in ", run_dir, "/checkpoints"));
  return absl::StrCat(run_dir, "/checkpoints/", names.back());
}

absl::StatusOr<v1::LearnerState> ReadLearnerState(const std::string& checkpoint) {
  v1::LearnerState state;
  SIBYL_RETURN_IF_ERROR(ReadProto(checkpoint + "/state.pb", &state));
  if (state.format_version() != kLearnerStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat(checkpoint, "/state.pb has format version ",
                                                      state.format_version(), ", this program reads ",
                                                      kLearnerStateVersion, "; use the Sibyl that wrote it"));
  }
  return state;
}

}  // namespace sibyl
