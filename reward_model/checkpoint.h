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

// A checkpoint is the file reward_model.records in the run's folder (state.proto, RewardModelPiece). The score model
// writes its own file beside it (ScoreModel::Save). Format version 1 was reward_model.pb, one message.

// Calls `on_piece` with the pieces of the newest complete checkpoint, and returns its head. nullopt: there is no
// checkpoint. Where the file is damaged, the newest checkpoint before the damage is read, and an error is logged.
// DataLoss: there is no complete one before the damage. FailedPrecondition: the file has another format version.
absl::StatusOr<std::optional<v1::RewardModelHead>> ReadCheckpoint(
    const std::string& run_dir, FileSystem& files, absl::FunctionRef<void(const v1::RewardModelPiece&)> on_piece);

// A checkpoint of version 1 as one piece.
v1::RewardModelPiece PieceOf(const v1::RewardModelState& state);

// Writes a checkpoint every `period` on its thread "checkpoint". The first checkpoint makes a new file, which is
// written beside the old one and renamed. Later checkpoints append what has changed. When appending has doubled the
// file, the next checkpoint makes a new file again.
class Checkpointer {
 public:
  // All references outlive this. `on_failure` is called when a checkpoint cannot be written; the thread then ends.
  Checkpointer(Coordinator& coordinator, const std::string& run_dir, absl::Duration period, Clock& clock,
               FileSystem& files, Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure);

  // Writes one now, on the calling thread.
  absl::Status Write();
  // Ends the thread and writes a last checkpoint. Call it once, when nothing changes any more. The destructor alone
  // writes none.
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
