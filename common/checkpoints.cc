#include "common/checkpoints.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/runtime/files.h"
#include "common/runtime/record_file.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

constexpr uint32_t kOneMessageVersion = 1;

// A file that belongs to a checkpoint and is not there is damage.
absl::Status AsDamage(absl::Status status) {
  return absl::IsNotFound(status) ? absl::DataLossError(status.message()) : std::move(status);
}

absl::Status CheckVersion(const std::string& path, const v1::LearnerState& state, uint32_t version) {
  if (state.format_version() == version) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " has format version ", state.format_version(),
                                                    ", this program reads ", version, "; use the Sibyl that wrote it"));
}

// Format 1.
absl::StatusOr<v1::LearnerState> ReadOneMessage(const std::string& path, FileSystem& files) {
  v1::LearnerState state;
  SIBYL_RETURN_IF_ERROR(AsDamage(ReadProto(path, &state, files)));
  SIBYL_RETURN_IF_ERROR(CheckVersion(path, state, kOneMessageVersion));
  return state;
}

absl::StatusOr<v1::LearnerState> ReadRecords(const std::string& path, const std::string& weights, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<RecordReader> reader, RecordReader::Open(path, files));
  v1::LearnerState state;
  v1::LearnerStateRecord record;
  for (;;) {
    SIBYL_ASSIGN_OR_RETURN(const bool there, reader->Next(&record));
    if (!there) return absl::DataLossError(absl::StrCat(path, " lacks its end; the file is damaged"));
    if (record.has_end()) break;
    if (record.has_state()) {
      state.Swap(record.mutable_state());
      SIBYL_RETURN_IF_ERROR(CheckVersion(path, state, kLearnerStateVersion));
    }
    for (v1::CaptionState& caption : *record.mutable_captions()->mutable_captions()) {
      state.add_captions()->Swap(&caption);
    }
  }
  const v1::LearnerStateEnd& end = record.end();
  if (static_cast<uint64_t>(state.captions_size()) != end.captions()) {
    return absl::DataLossError(
        absl::StrCat(path, " has ", state.captions_size(), " captions, not ", end.captions(), "; the file is damaged"));
  }
  absl::StatusOr<std::string> bytes = ReadFile(weights, files);
  SIBYL_RETURN_IF_ERROR(AsDamage(bytes.status()));
  if (bytes->size() != end.weights_bytes() || Crc32c(*bytes) != end.weights_crc32c()) {
    return absl::DataLossError(absl::StrCat(weights, " is not what was written; the file is damaged"));
  }
  return state;
}

}  // namespace

std::string CheckpointName(uint64_t steps) { return absl::StrFormat("checkpoint-%012d", steps); }

std::vector<std::string> CheckpointNames(const std::string& run_dir, FileSystem& files) {
  std::vector<std::string> names;
  for (const std::string& name : files.List(run_dir + "/checkpoints").value_or(std::vector<std::string>())) {
    absl::string_view digits = name;
    absl::ConsumeSuffix(&digits, kReplacedSuffix);
    uint64_t steps = 0;
    if (absl::ConsumePrefix(&digits, "checkpoint-") && absl::SimpleAtoi(digits, &steps)) names.push_back(name);
  }
  // By steps; of two with the same steps the replaced one is older.
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    const absl::string_view x = absl::StripSuffix(a, kReplacedSuffix), y = absl::StripSuffix(b, kReplacedSuffix);
    return x != y ? x < y : a.size() > b.size();
  });
  return names;
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& run_dir, const std::string& name, FileSystem& files) {
  Checkpoint checkpoint;
  checkpoint.name = name;
  checkpoint.folder = absl::StrCat(run_dir, "/checkpoints/", name);
  checkpoint.weights = checkpoint.folder + "/weights.safetensors";
  const std::string one_message = checkpoint.folder + "/state.pb", records = checkpoint.folder + "/state.records";
  if (files.Exists(one_message)) {
    SIBYL_ASSIGN_OR_RETURN(checkpoint.state, ReadOneMessage(one_message, files));
  } else {
    auto state = ReadRecords(records, checkpoint.weights, files);
    SIBYL_RETURN_IF_ERROR(AsDamage(state.status()));
    checkpoint.state = *std::move(state);
  }
  return checkpoint;
}

absl::StatusOr<Checkpoint> ReadNewestCheckpoint(const std::string& run_dir, FileSystem& files,
                                                std::vector<std::string>* damaged) {
  const std::vector<std::string> names = CheckpointNames(run_dir, files);
  if (names.empty()) return absl::NotFoundError(absl::StrCat("there is no checkpoint in ", run_dir, "/checkpoints"));
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    auto checkpoint = ReadCheckpoint(run_dir, *name, files);
    if (!absl::IsDataLoss(checkpoint.status())) return checkpoint;
    spdlog::error("{}; passing over {} for the checkpoint before it", checkpoint.status().message(), *name);
    if (damaged != nullptr) damaged->push_back(*name);
  }
  return absl::DataLossError(absl::StrCat("all ", names.size(), " checkpoints in ", run_dir,
                                          "/checkpoints are damaged; restore one from a copy, or start a new run"));
}

}  // namespace sibyl
