#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "common/mutex.h"
#include "policy/policy.h"

namespace sibyl::learner {

// Hands the trained weights to inference. Two copies of the policy take turns: one is read while the other is written.
class PolicyStore {
 public:
  struct Published {
    std::shared_ptr<Policy> policy;  // frozen as long as it is held
    uint64_t policy_version = 0;     // optimiser steps behind its weights
  };

  // Two policies of the trained one's shape, which nobody else holds.
  PolicyStore(std::shared_ptr<Policy> a, std::shared_ptr<Policy> b) : spare_(std::move(b)) {
    current_.policy = std::move(a);
  }

  // Any thread. Hold the result only for one forward pass.
  Published Get() const {
    MutexLock lock(mutex_);
    return current_;
  }

  // One thread. Copies the weights. Spins until the last reader of the older copy has finished: at most one forward
  // pass.
  void Publish(const Policy& trained, uint64_t version) {
    while (spare_.use_count() > 1) std::this_thread::yield();
    // use_count() is a relaxed read: what the last reader did comes before what is written here.
    std::atomic_thread_fence(std::memory_order_acquire);
    {
      torch::NoGradGuard no_grad;
      const auto from = trained.parameters();
      const auto to = spare_->parameters();
      for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
    }
    MutexLock lock(mutex_);
    std::swap(current_.policy, spare_);
    current_.policy_version = version;
  }

 private:
  mutable Mutex mutex_;
  Published current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Policy> spare_;  // Publish's
};

}  // namespace sibyl::learner
