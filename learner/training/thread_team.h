#pragma once

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"

namespace sibyl::learner {

// Threads that work on the parts of one thing together: the caller's and size - 1 of its own.
class ThreadTeam {
 public:
  // `begin` is called once on each thread of its own, which is named `name`.
  ThreadTeam(int size, const std::string& name, const std::function<void()>& begin);
  ~ThreadTeam();

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(0) to body(size - 1) at the same time, the first on the caller's thread, and returns when all have
  // returned. Throws what the first of them threw, in that order. One call at a time.
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
