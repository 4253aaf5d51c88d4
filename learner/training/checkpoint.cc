#include "learner/training/checkpoint.h"

#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/checkpoints.h"
#include "common/runtime/files.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

namespace fs = std::filesystem;

constexpr char kTemporary[] = ".tmp";

}  // namespace

absl::Status WriteCheckpoint(const std::string& run_dir, const v1::LearnerState& state, const WriteWeights& weights,
                             int keep) {
  const std::string final_path = absl::StrFormat("%s/checkpoints/checkpoint-%012d", run_dir, state.steps());
  const std::string temporary = final_path + kTemporary;
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directories(temporary, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", temporary, ": ", error.message()));
  SIBYL_RETURN_IF_ERROR(weights(temporary + "/weights.safetensors"));
  SIBYL_RETURN_IF_ERROR(WriteProtoDurably(temporary + "/state.pb", state));
  fs::remove_all(final_path, error);
  fs::rename(temporary, final_path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", final_path, ": ", error.message()));
  // Durable once the folder that names it is.
  SIBYL_RETURN_IF_ERROR(WriteFileDurably(run_dir + "/checkpoints/newest", fs::path(final_path).filename().string()));
  const std::vector<std::string> all = CheckpointNames(run_dir);
  for (size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(absl::StrCat(run_dir, "/checkpoints/", all[i]), error);
  return absl::OkStatus();
}

CheckpointThread::CheckpointThread(std::string run_dir, int keep, std::function<void(absl::Status)> failed)
    : run_dir_(std::move(run_dir)), keep_(keep), failed_(std::move(failed)), thread_([this] {
        NameThread("checkpoint");
        Run();
      }) {}

CheckpointThread::~CheckpointThread() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

void CheckpointThread::Write(v1::LearnerState state, WriteWeights weights) {
  MutexLock lock(mutex_);
  next_ = Job{std::move(state), std::move(weights)};
  wake_.NotifyAll();
}

void CheckpointThread::Run() {
  for (;;) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (!next_ && !stop_) wake_.Wait(mutex_);
      if (!next_) return;
      job = std::move(*next_);
      next_.reset();
    }
    const absl::Status status = WriteCheckpoint(run_dir_, job.state, job.weights, keep_);
    if (!status.ok()) failed_(status);
  }
}

}  // namespace sibyl::learner
