#include "reward_model/checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/runtime/files.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::reward_model {
namespace {

// A file is not written anew before so much was appended to it.
constexpr size_t kLeastAppended = 1 << 20;
// A write that takes longer than this is taken for a disk that hangs.
constexpr absl::Duration kWriteLimit = absl::Minutes(5);

std::string RecordsPath(const std::string& run_dir) { return absl::StrCat(run_dir, "/reward_model.records"); }
std::string Version1Path(const std::string& run_dir) { return absl::StrCat(run_dir, "/reward_model.pb"); }

// Calls `on_record` for each record until it gives false, the file ends or the file is damaged.
absl::Status ReadPieces(const std::string& path, FileSystem& files,
                        absl::FunctionRef<bool(const v1::RewardModelPiece&)> on_piece) {
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<RecordReader> reader, RecordReader::Open(path, files));
  v1::RewardModelPiece piece;
  while (true) {
    SIBYL_ASSIGN_OR_RETURN(const bool there, reader->Next(&piece));
    if (!there || !on_piece(piece)) return absl::OkStatus();
  }
}

absl::Status CheckVersion(uint32_t version, uint32_t wanted, const std::string& path) {
  if (version == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " has format ", version, ", this program reads ", wanted,
                                                    "; use the release that wrote it, or another run folder"));
}

}  // namespace

v1::RewardModelPiece PieceOf(const v1::RewardModelState& state) {
  v1::RewardModelPiece piece;
  *piece.mutable_captions() = state.captions();
  *piece.mutable_comparisons() = state.comparisons();
  v1::RewardModelHead& head = *piece.mutable_head();
  head.set_format_version(kCheckpointVersion);
  head.set_run_id(state.run_id());
  head.set_goal(state.goal());
  *head.mutable_label_set() = state.label_set();
  head.set_judge(state.judge());
  head.set_prompt(state.prompt());
  head.set_log_id(state.log_id());
  head.set_next_sequence(state.next_sequence());
  head.set_learner_incarnation(state.learner_incarnation());
  return piece;
}

absl::StatusOr<std::optional<v1::RewardModelHead>> ReadCheckpoint(
    const std::string& run_dir, FileSystem& files, absl::FunctionRef<void(const v1::RewardModelPiece&)> on_piece) {
  const std::string path = RecordsPath(run_dir);
  if (!files.Exists(path)) {
    v1::RewardModelState state;
    const absl::Status read = ReadProto(Version1Path(run_dir), &state, files);
    if (absl::IsNotFound(read)) return std::nullopt;
    SIBYL_RETURN_IF_ERROR(read);
    SIBYL_RETURN_IF_ERROR(CheckVersion(state.format_version(), 1, Version1Path(run_dir)));
    const v1::RewardModelPiece piece = PieceOf(state);
    on_piece(piece);
    return piece.head();
  }
  // Only what stands before the last head counts, so that is looked for first.
  std::optional<v1::RewardModelHead> head;
  size_t pieces = 0, complete = 0;
  const absl::Status read = ReadPieces(path, files, [&](const v1::RewardModelPiece& piece) {
    ++pieces;
    if (!piece.has_head()) return true;
    head = piece.head();
    complete = pieces;
    return true;
  });
  if (!head.has_value()) {
    SIBYL_RETURN_IF_ERROR(read);
    return absl::DataLossError(absl::StrCat(path, " has no complete checkpoint; move it away to begin without one"));
  }
  if (absl::IsDataLoss(read)) {
    spdlog::error("{}; going on from the checkpoint before that", read.message());
  } else {
    SIBYL_RETURN_IF_ERROR(read);
  }
  SIBYL_RETURN_IF_ERROR(CheckVersion(head->format_version(), kCheckpointVersion, path));
  SIBYL_RETURN_IF_ERROR(ReadPieces(path, files, [&](const v1::RewardModelPiece& piece) {
    on_piece(piece);
    return --complete > 0;
  }));
  return head;
}

Checkpointer::Checkpointer(Coordinator& coordinator, const std::string& run_dir, absl::Duration period, Clock& clock,
                           FileSystem& files, Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure)
    : coordinator_(coordinator),
      run_dir_(run_dir),
      period_(period),
      clock_(clock),
      files_(files),
      heartbeat_(heartbeats.Add("checkpoint", kWriteLimit)),
      worker_(
          "checkpoint", [this](const std::stop_token& stop) { return Run(stop); }, std::move(on_failure)) {}

absl::Status Checkpointer::Write() {
  MutexLock lock(writing_);
  const absl::Time start = clock_.Now();
  SIBYL_RETURN_IF_ERROR(coordinator_.score_model().Save(run_dir_));
  if (absl::Status status = WriteRecords(); !status.ok()) {
    writer_ = nullptr;  // nobody knows what the file holds now
    return status;
  }
  const absl::Time end = clock_.Now();
  coordinator_.metrics().checkpoint_duration.Set(absl::ToDoubleSeconds(end - start));
  coordinator_.metrics().checkpoint_timestamp.Set(absl::ToDoubleSeconds(end - absl::UnixEpoch()));
  coordinator_.metrics().checkpoint_bytes.Set(static_cast<double>(writer_->bytes()));
  return absl::OkStatus();
}

absl::Status Checkpointer::WriteRecords() {
  if (writer_ != nullptr && writer_->bytes() - whole_bytes_ < std::max(whole_bytes_, kLeastAppended)) {
    coordinator_.BeginCheckpoint(/*whole=*/false);
    return AppendPieces(*writer_);
  }
  const std::string path = RecordsPath(run_dir_);
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<RecordWriter> writer, RecordWriter::Create(path + kTemporarySuffix, files_));
  coordinator_.BeginCheckpoint(/*whole=*/true);
  last_head_.clear();
  SIBYL_RETURN_IF_ERROR(AppendPieces(*writer));
  SIBYL_RETURN_IF_ERROR(CommitTemporary(path, files_));
  if (writer_ != nullptr) SIBYL_RETURN_IF_ERROR(writer_->Close());
  writer_ = std::move(writer);  // goes on writing to the file under its new name
  whole_bytes_ = writer_->bytes();
  return files_.Remove(Version1Path(run_dir_));
}

absl::Status Checkpointer::AppendPieces(RecordWriter& writer) {
  while (true) {
    const v1::RewardModelPiece piece = coordinator_.NextPiece();
    const std::string head = piece.head().SerializeAsString();
    const bool nothing_new = piece.has_head() && head == last_head_ && !piece.labels_void() &&
                             piece.forgotten_size() + piece.captions_size() + piece.comparisons_size() == 0;
    if (nothing_new) return absl::OkStatus();
    SIBYL_RETURN_IF_ERROR(writer.Append(piece));
    heartbeat_->Beat();
    if (!piece.has_head()) continue;
    last_head_ = head;
    return writer.Sync();
  }
}

absl::Status Checkpointer::Close() {
  worker_.RequestStop();
  worker_.Join();
  SIBYL_RETURN_IF_ERROR(Write());
  MutexLock lock(writing_);
  const std::unique_ptr<RecordWriter> writer = std::move(writer_);
  return writer->Close();
}

absl::Status Checkpointer::Run(const std::stop_token& stop) {
  absl::Time due = clock_.Now() + period_;
  while (!WaitForStop(stop, clock_, std::min(absl::Seconds(1), due - clock_.Now()))) {
    heartbeat_->Beat();
    if (clock_.Now() < due) continue;
    SIBYL_RETURN_IF_ERROR(Write());
    due = clock_.Now() + period_;
  }
  return absl::OkStatus();
}

}  // namespace sibyl::reward_model
