#include "reward_model/scoring/learning_thread.h"

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace sibyl::reward_model {

LearningThread::LearningThread(LearnedModel& model, Shutdown& shutdown)
    : model_(model), shutdown_(shutdown), thread_([this] { Run(); }) {}

LearningThread::~LearningThread() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    stopped_.NotifyAll();
  }
  thread_.join();
}

void LearningThread::Run() {
  NameThread("learning");
  at::set_num_threads(1);
  while (true) {
    absl::Duration rest;
    try {
      rest = model_.Work();
    } catch (const std::exception& error) {
      shutdown_.Fail(absl::InternalError(absl::StrCat("the reward model cannot learn: ", error.what())));
      return;
    }
    const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(rest);
    MutexLock lock(mutex_);
    while (!stop_) {
      const auto left = until - std::chrono::steady_clock::now();
      if (left <= left.zero()) break;
      stopped_.WaitFor(mutex_, left);
    }
    if (stop_) return;
  }
}

}  // namespace sibyl::reward_model
