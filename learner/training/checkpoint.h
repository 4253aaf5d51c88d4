#pragma once

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::learner {

// Writes weights to the path it is given.
using WriteWeights = std::function<absl::Status(const std::string& path)>;

// Writes a checkpoint of `state.steps()` (common/checkpoints.h) and removes all but the newest `keep`. It is written
// beside, fsynced and renamed, so it is there whole or not at all; one that is there already is replaced.
absl::Status WriteCheckpoint(const std::string& run_dir, const v1::LearnerState& state, const WriteWeights& weights,
                             int keep);

// Writes checkpoints on a thread of its own, so that training does not wait for a disk. Holds one that is being
// written and one that waits; a newer one takes the place of the one that waits.
class CheckpointThread {
 public:
  // `failed` is called from the thread when one cannot be written.
  CheckpointThread(std::string run_dir, int keep, std::function<void(absl::Status)> failed);
  // Writes what waits.
  ~CheckpointThread();

  // Any thread. What `weights` captures must not change any more.
  void Write(v1::LearnerState state, WriteWeights weights);

 private:
  struct Job {
    v1::LearnerState state;
    WriteWeights weights;
  };
  void Run();

  const std::string run_dir_;
  const int keep_;
  const std::function<void(absl::Status)> failed_;
  Mutex mutex_;
  CondVar wake_;
  std::optional<Job> next_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sibyl::learner
