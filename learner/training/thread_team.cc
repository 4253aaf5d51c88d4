#include "learner/training/thread_team.h"

#include <algorithm>

#include "common/log.h"

namespace sibyl::learner {
namespace {

void Call(const std::function<void(int)>& body, int member, std::exception_ptr* thrown) {
  try {
    body(member);
  } catch (...) {
    *thrown = std::current_exception();
  }
}

}  // namespace

ThreadTeam::ThreadTeam(int size, const std::string& name, const std::function<void()>& begin) : thrown_(size) {
  for (int member = 1; member < size; ++member) {
    threads_.emplace_back([this, member, name, begin] {
      NameThread(name.c_str());
      begin();
      Work(member);
    });
  }
}

ThreadTeam::~ThreadTeam() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  begun_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::Work(int member) {
  for (uint64_t done = 0;;) {
    const std::function<void(int)>* body;
    {
      MutexLock lock(mutex_);
      while (!closed_ && round_ == done) begun_.Wait(mutex_);
      if (closed_) return;
      done = round_;
      body = body_;
    }
    Call(*body, member, &thrown_[member]);
    MutexLock lock(mutex_);
    if (--working_ == 0) ended_.NotifyOne();
  }
}

void ThreadTeam::Run(const std::function<void(int)>& body) {
  std::fill(thrown_.begin(), thrown_.end(), nullptr);
  if (!threads_.empty()) {
    MutexLock lock(mutex_);
    body_ = &body;
    working_ = static_cast<int>(threads_.size());
    ++round_;
    begun_.NotifyAll();
  }
  Call(body, 0, &thrown_[0]);
  {
    MutexLock lock(mutex_);
    while (working_ > 0) ended_.Wait(mutex_);
  }
  for (const std::exception_ptr& thrown : thrown_) {
    if (thrown != nullptr) std::rethrow_exception(thrown);
  }
}

}  // namespace sibyl::learner
