#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "common/runtime/file_system.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/record_file.h"
#include "common/runtime/worker.h"
#include "reward_model/coordinator.h"

namespace sibyl::reward_model {

// A checkpoint is reward_model.records in the run's folder (state.proto, RewardModelPiece), beside what the score model
// itself keeps (ScoreModel::Save). Version 1 was reward_model.pb, one message.

// Hands over the pieces of the newest complete checkpoint, and gives its head; nullopt: there is none. Where the file
// is damaged, the newest one before the damage is taken, and an error is logged. DataLoss: there is no complete one
// before the damage. FailedPrecondition: another format version.
absl::StatusOr<std::optional<v1::RewardModelHead>> ReadCheckpoint(
    const std::string& run_dir, FileSystem& files, absl::FunctionRef<void(const v1::RewardModelPiece&)> on_piece);

// A checkpoint of version 1 as one piece.
v1::RewardModelPiece PieceOf(const v1::RewardModelState& state);

// Writes a checkpoint every `period` on a thread of its own, "checkpoint". The first one is a new file, written beside
// and renamed; later ones append what has changed, until the file is twice as large as it would be if it were written
// anew, and then it is.
class Checkpointer {
 public:
  // All outlive this. `on_failure` is called when a checkpoint cannot be written, and none is written after that.
  Checkpointer(Coordinator& coordinator, const std::string& run_dir, absl::Duration period, Clock& clock,
               FileSystem& files, Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure);

  // Writes one now, on the calling thread.
  absl::Status Write();
  // Ends the thread and writes a last one. Call it once, when nothing changes any more. The destructor alone writes
  // none.
  absl::Status Close();

 private:
  absl::Status Run(const std::stop_token& stop);
  absl::Status WriteRecords() ABSL_EXCLUSIVE_LOCKS_REQUIRED(writing_);
  // Appends all pieces of a checkpoint and syncs them.
  absl::Status AppendPieces(RecordWriter& writer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writing_);

  Coordinator& coordinator_;
  const std::string run_dir_;
  const absl::Duration period_;
  Clock& clock_;
  FileSystem& files_;
  const std::unique_ptr<Heartbeat> heartbeat_;
  Mutex writing_;
  std::unique_ptr<RecordWriter> writer_ ABSL_GUARDED_BY(writing_);  // nullptr: the next one is a new file
  size_t whole_bytes_ ABSL_GUARDED_BY(writing_) = 0;                // of the file when it was new
  std::string last_head_ ABSL_GUARDED_BY(writing_);
  Worker worker_;
};

}  // namespace sibyl::reward_model
