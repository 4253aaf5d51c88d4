#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"
#include "common/runtime/file_system.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/worker.h"
#include "learner/experience/caption_table.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::learner {

// The bytes of a safetensors file.
using EncodeWeights = std::function<absl::StatusOr<std::string>()>;

// Makes RUN/checkpoints, and removes what a killed learner left there. Where a checkpoint was being replaced and its
// successor is missing, it is put back. Call it before checkpoints are read or written.
absl::Status OpenCheckpointFolder(const std::string& run_dir, FileSystem& files);

// Renames damaged checkpoints. They are not read again and do not count among those that are kept.
absl::Status SetAsideCheckpoints(const std::string& run_dir, const std::vector<std::string>& names, FileSystem& files);

// Writes a checkpoint of `state.steps()` (common/checkpoints.h) and removes all but the newest `keep`. The checkpoint
// is written beside, synced and renamed, so that it is there whole or not at all; at no instant is there none where
// there was one before. `state.captions` is ignored: captions come from the table as they are now.
absl::Status WriteCheckpoint(const std::string& run_dir, const v1::LearnerState& state, const EncodeWeights& weights,
                             const CaptionTable& captions, int keep, FileSystem& files);

// Writes checkpoints on its thread "checkpoint", so that training does not wait for a disk. It holds the checkpoint
// that is being written and one that waits. A newer checkpoint replaces the one that waits.
class CheckpointThread {
 public:
  // The thread calls `failed` when a checkpoint cannot be written. All pointers outlive this.
  CheckpointThread(std::string run_dir, int keep, const CaptionTable* captions, FileSystem* files, Clock* clock,
                   Heartbeats* heartbeats, std::function<void(absl::Status)> failed);

  // Any thread, before Close. `weights` is called on the checkpoint thread; what it captures must not change any more.
  void Write(v1::LearnerState state, EncodeWeights weights);

  // Writes the checkpoint that waits and ends the thread. An error: the newest state that was handed over is not on the
  // disk. Call it once. The destructor alone drops the checkpoint that waits.
  absl::Status Close();

 private:
  struct Job {
    v1::LearnerState state;
    EncodeWeights weights;
  };
  absl::Status Run(const std::stop_token& stop);

  const std::string run_dir_;
  const int keep_;
  const CaptionTable* const captions_;
  FileSystem* const files_;
  Clock* const clock_;
  const std::function<void(absl::Status)> failed_;
  const std::unique_ptr<Heartbeat> heartbeat_;
  Mutex mutex_;
  CondVar wake_;
  std::optional<Job> next_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_ ABSL_GUARDED_BY(mutex_);  // of the last write
  Worker worker_;
};

}  // namespace sibyl::learner
