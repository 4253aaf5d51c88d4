#include "learner/training/checkpoint.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/checkpoints.h"
#include "common/crc32c.h"
#include "common/runtime/files.h"
#include "common/runtime/record_file.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

// A record of captions ends when it has one of these.
constexpr int kCaptionsARecord = 4096;
constexpr size_t kBytesARecord = 4 << 20;

// A write that takes longer than this is taken for a disk that hangs.
constexpr absl::Duration kWriteLimit = absl::Minutes(5);

absl::Status WriteState(const std::string& path, const v1::LearnerState& state, const CaptionTable& captions,
                        const std::string& weights, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<RecordWriter> writer, RecordWriter::Create(path, files));
  v1::LearnerStateRecord record;
  *record.mutable_state() = state;
  record.mutable_state()->clear_captions();
  SIBYL_RETURN_IF_ERROR(writer->Append(record));

  // A piece at a time, so that neither the table is locked for long nor all captions are in memory twice.
  uint64_t count = 0;
  size_t bytes = 0;
  record.mutable_captions();
  google::protobuf::RepeatedPtrField<v1::CaptionState> piece;
  int32_t next_row = 0;
  for (bool more = true; more; piece.Clear()) {
    more = captions.SavePiece(&next_row, &piece);
    count += static_cast<uint64_t>(piece.size());
    for (v1::CaptionState& caption : piece) {
      bytes += caption.ByteSizeLong();
      record.mutable_captions()->add_captions()->Swap(&caption);
      if (record.captions().captions_size() < kCaptionsARecord && bytes < kBytesARecord) continue;
      SIBYL_RETURN_IF_ERROR(writer->Append(record));
      record.mutable_captions()->Clear();
      bytes = 0;
    }
  }
  if (record.captions().captions_size() > 0) SIBYL_RETURN_IF_ERROR(writer->Append(record));

  record.mutable_end()->set_captions(count);
  record.mutable_end()->set_weights_bytes(weights.size());
  record.mutable_end()->set_weights_crc32c(Crc32c(weights));
  SIBYL_RETURN_IF_ERROR(writer->Append(record));
  SIBYL_RETURN_IF_ERROR(writer->Sync());
  return writer->Close();
}

absl::Status WriteFolder(const std::string& folder, const v1::LearnerState& state, const EncodeWeights& encode,
                         const CaptionTable& captions, FileSystem& files) {
  SIBYL_RETURN_IF_ERROR(files.Remove(folder));
  SIBYL_RETURN_IF_ERROR(files.MakeFolders(folder));
  SIBYL_ASSIGN_OR_RETURN(const std::string weights, encode());
  SIBYL_RETURN_IF_ERROR(WriteNewFile(folder + "/weights.safetensors", weights, files));
  SIBYL_RETURN_IF_ERROR(WriteState(folder + "/state.records", state, captions, weights, files));
  return files.SyncFolder(folder);
}

}  // namespace

absl::Status OpenCheckpointFolder(const std::string& run_dir, FileSystem& files) {
  const std::string folder = run_dir + "/checkpoints";
  SIBYL_RETURN_IF_ERROR(files.MakeFolders(folder));
  SIBYL_RETURN_IF_ERROR(files.SyncFolder(run_dir));
  SIBYL_RETURN_IF_ERROR(RemoveLeftovers(folder, files));
  SIBYL_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(folder));
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, kReplacedSuffix)) continue;
    const std::string replaced = absl::StrCat(folder, "/", name);
    const std::string successor(absl::StripSuffix(replaced, kReplacedSuffix));
    SIBYL_RETURN_IF_ERROR(files.Exists(successor) ? files.Remove(replaced) : files.Rename(replaced, successor));
  }
  return files.SyncFolder(folder);
}

absl::Status SetAsideCheckpoints(const std::string& run_dir, const std::vector<std::string>& names, FileSystem& files) {
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(run_dir, "/checkpoints/", name), aside = absl::StrCat(path, kDamagedSuffix);
    SIBYL_RETURN_IF_ERROR(files.Remove(aside));
    SIBYL_RETURN_IF_ERROR(files.Rename(path, aside));
  }
  return names.empty() ? absl::OkStatus() : files.SyncFolder(run_dir + "/checkpoints");
}

absl::Status WriteCheckpoint(const std::string& run_dir, const v1::LearnerState& state, const EncodeWeights& weights,
                             const CaptionTable& captions, int keep, FileSystem& files) {
  const std::string folder = run_dir + "/checkpoints", name = CheckpointName(state.steps());
  const std::string path = absl::StrCat(folder, "/", name), temporary = absl::StrCat(path, kTemporarySuffix),
                    replaced = absl::StrCat(path, kReplacedSuffix);
  if (absl::Status status = WriteFolder(temporary, state, weights, captions, files); !status.ok()) {
    files.Remove(temporary).IgnoreError();
    return status;
  }
  if (files.Exists(path)) {
    SIBYL_RETURN_IF_ERROR(files.Remove(replaced));
    SIBYL_RETURN_IF_ERROR(files.Rename(path, replaced));
  }
  SIBYL_RETURN_IF_ERROR(files.Rename(temporary, path));
  SIBYL_RETURN_IF_ERROR(files.SyncFolder(folder));
  // Only now, when the new one is durable, may others go.
  SIBYL_RETURN_IF_ERROR(files.Remove(replaced));
  SIBYL_RETURN_IF_ERROR(WriteFileDurably(folder + "/newest", name, files));
  const std::vector<std::string> all = CheckpointNames(run_dir, files);
  for (size_t i = 0; i + keep < all.size(); ++i) {
    SIBYL_RETURN_IF_ERROR(files.Remove(absl::StrCat(folder, "/", all[i])));
  }
  return absl::OkStatus();
}

CheckpointThread::CheckpointThread(std::string run_dir, int keep, const CaptionTable* captions, FileSystem* files,
                                   Clock* clock, Heartbeats* heartbeats, std::function<void(absl::Status)> failed)
    : run_dir_(std::move(run_dir)),
      keep_(keep),
      captions_(captions),
      files_(files),
      clock_(clock),
      failed_(std::move(failed)),
      heartbeat_(heartbeats->Add("checkpoint", kWriteLimit)),
      worker_(
          "checkpoint", [this](const std::stop_token& stop) { return Run(stop); }, failed_) {}

void CheckpointThread::Write(v1::LearnerState state, EncodeWeights weights) {
  MutexLock lock(mutex_);
  next_ = Job{std::move(state), std::move(weights)};
  wake_.NotifyAll();
}

absl::Status CheckpointThread::Close() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
    wake_.NotifyAll();
  }
  worker_.Join();
  MutexLock lock(mutex_);
  return last_;
}

absl::Status CheckpointThread::Run(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, wake_);
  for (;;) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (!next_ && !closing_ && !stop.stop_requested()) {
        clock_->WaitFor(wake_, mutex_, absl::Seconds(1));
        heartbeat_->Beat();
      }
      if (stop.stop_requested() || !next_) return absl::OkStatus();
      job = std::move(*next_);
      next_.reset();
    }
    heartbeat_->Beat();
    absl::Status status =
        CatchExceptions([&] { return WriteCheckpoint(run_dir_, job.state, job.weights, *captions_, keep_, *files_); });
    if (!status.ok()) {
      status = absl::Status(status.code(), absl::StrCat("the checkpoint of ", job.state.steps(),
                                                        " steps is not saved: ", status.message()));
    }
    {
      MutexLock lock(mutex_);
      last_ = status;
    }
    if (!status.ok()) failed_(status);
  }
}

}  // namespace sibyl::learner
