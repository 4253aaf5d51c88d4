#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/shutdown.h"
#include "reward_model/coordinator.h"

namespace sibyl::reward_model {

// A checkpoint is reward_model.pb in the run's folder, beside what the score model itself keeps (ScoreModel::Save).
// nullopt: there is none. DataLoss: it is damaged.
absl::StatusOr<std::optional<v1::RewardModelState>> ReadCheckpoint(const std::string& run_dir);
absl::Status WriteCheckpoint(const std::string& run_dir, const v1::RewardModelState& state);

// Writes a checkpoint every `period` on a thread of its own, from a copy, so that nothing waits for the disk. A write
// that fails ends the process (Shutdown::Fail).
class Checkpointer {
 public:
  Checkpointer(Coordinator& model, const std::string& run_dir, absl::Duration period, Shutdown& shutdown);
  // Ends the thread; no last checkpoint.
  ~Checkpointer();
  // Writes one now, on the calling thread.
  absl::Status Write();

 private:
  void Run();

  Coordinator& model_;
  const std::string run_dir_;
  const absl::Duration period_;
  Shutdown& shutdown_;
  Mutex writing_;
  Mutex mutex_;
  CondVar stopped_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sibyl::reward_model
