#pragma once

#include <thread>

#include "common/mutex.h"
#include "common/shutdown.h"
#include "reward_model/scoring/learned_model.h"

namespace sibyl::reward_model {

// Does a model's work on a thread of its own, as long as this lives. An exception of LibTorch's ends the process
// (Shutdown::Fail).
class LearningThread {
 public:
  // Both must outlive this.
  LearningThread(LearnedModel& model, Shutdown& shutdown);
  ~LearningThread();

 private:
  void Run();

  LearnedModel& model_;
  Shutdown& shutdown_;
  Mutex mutex_;
  CondVar stopped_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sibyl::reward_model
