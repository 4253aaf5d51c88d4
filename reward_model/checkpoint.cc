#include "reward_model/checkpoint.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/runtime/files.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace sibyl::reward_model {
namespace {

std::string StatePath(const std::string& run_dir) { return absl::StrCat(run_dir, "/reward_model.pb"); }

}  // namespace

absl::StatusOr<std::optional<v1::RewardModelState>> ReadCheckpoint(const std::string& run_dir) {
  v1::RewardModelState state;
  const absl::Status read = ReadProto(StatePath(run_dir), &state);
  if (absl::IsNotFound(read)) return std::nullopt;
  SIBYL_RETURN_IF_ERROR(read);
  return state;
}

absl::Status WriteCheckpoint(const std::string& run_dir, const v1::RewardModelState& state) {
  return WriteProtoDurably(StatePath(run_dir), state);
}

Checkpointer::Checkpointer(Coordinator& model, const std::string& run_dir, absl::Duration period, Shutdown& shutdown)
    : model_(model), run_dir_(run_dir), period_(period), shutdown_(shutdown), thread_([this] { Run(); }) {}

Checkpointer::~Checkpointer() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    stopped_.NotifyAll();
  }
  thread_.join();
}

absl::Status Checkpointer::Write() {
  MutexLock lock(writing_);
  const absl::Time start = absl::Now();
  SIBYL_RETURN_IF_ERROR(model_.score_model().Save(run_dir_));
  SIBYL_RETURN_IF_ERROR(WriteCheckpoint(run_dir_, model_.MakeCheckpoint()));
  const absl::Time end = absl::Now();
  model_.metrics().checkpoint_duration.Set(absl::ToDoubleSeconds(end - start));
  model_.metrics().checkpoint_timestamp.Set(absl::ToDoubleSeconds(end - absl::UnixEpoch()));
  return absl::OkStatus();
}

void Checkpointer::Run() {
  NameThread("checkpoint");
  while (true) {
    {
      const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(period_);
      MutexLock lock(mutex_);
      while (!stop_) {
        const auto left = until - std::chrono::steady_clock::now();
        if (left <= left.zero()) break;
        stopped_.WaitFor(mutex_, left);
      }
      if (stop_) return;
    }
    if (absl::Status written = Write(); !written.ok()) {
      shutdown_.Fail(std::move(written));
      return;
    }
  }
}

}  // namespace sibyl::reward_model
