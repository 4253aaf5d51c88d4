#pragma once

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"

namespace sibyl::learner {

// Threads that work on the parts of one computation: the caller's thread and size - 1 threads of the team.
class ThreadTeam {
 public:
  // The team's threads are named `name`. Each calls `begin` once.
  ThreadTeam(int size, const std::string& name, const std::function<void()>& begin);
  ~ThreadTeam();

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(0) to body(size - 1) at the same time, body(0) on the caller's thread. Returns when all have returned.
  // Throws the exception of the lowest member that threw. One call at a time.
  void Run(const std::function<void(int)>& body);

 private:
  void Work(int member);

  Mutex mutex_;
  CondVar begun_, ended_;
  const std::function<void(int)>* body_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t round_ ABSL_GUARDED_BY(mutex_) = 0;
  int working_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::exception_ptr> thrown_;  // by member; each writes its own while it works
  std::vector<std::thread> threads_;
};

}  // namespace sibyl::learner
