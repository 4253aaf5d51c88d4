#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"

namespace sibyl::learner {

// Collects what many threads send until there is enough of it for one thread to work on. Push may be called from any
// thread and never waits. Pop belongs to one thread.
//
// Waking a thread costs more than a step of a small network. So Push wakes the reader only when the reader's minimum is
// reached, and a reader that has waited longer than its limit asks to be woken by the next item alone.
template <typename T>
class BatchingQueue {
 public:
  // Holds `capacity` items at most. `clock` outlives the queue.
  BatchingQueue(size_t capacity, Clock* clock) : capacity_(capacity), clock_(clock) {}

  // False when the queue is full or closed; the item is then dropped.
  bool Push(T item) {
    bool enough;
    {
      MutexLock lock(mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back({std::move(item), clock_->Now()});
      enough = items_.size() >= wake_at_;
    }
    if (enough) enough_.NotifyOne();
    return true;
  }

  // Moves all items, oldest first, to the end of `items`: as soon as there are `minimum` of them, or the oldest one has
  // waited for `limit`. An empty queue is waited for no longer than `empty_limit`; a minimum of 0 never waits. False once
  // the queue is closed.
  bool Pop(size_t minimum, absl::Duration limit, std::vector<T>* items,
           absl::Duration empty_limit = absl::InfiniteDuration()) {
    MutexLock lock(mutex_);
    const absl::Time begin = clock_->Now();
    while (!closed_ && items_.size() < minimum) {
      const absl::Time now = clock_->Now();
      const absl::Duration left = (items_.empty() ? begin : items_.front().arrival) + limit - now;
      const absl::Duration empty_left = items_.empty() ? begin + empty_limit - now : absl::InfiniteDuration();
      const bool late = left <= absl::ZeroDuration();
      if ((late && !items_.empty()) || empty_left <= absl::ZeroDuration()) break;
      wake_at_ = late ? 1 : minimum;
      clock_->WaitFor(enough_, mutex_, late ? empty_left : std::min(left, empty_left));
    }
    if (closed_) return false;
    for (Entry& entry : items_) items->push_back(std::move(entry.item));
    items_.clear();
    return true;
  }

  // Ends every wait. Items that are left are dropped with the queue.
  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
    enough_.NotifyAll();
  }

  size_t size() const {
    MutexLock lock(mutex_);
    return items_.size();
  }

 private:
  struct Entry {
    T item;
    absl::Time arrival;
  };

  const size_t capacity_;
  Clock* const clock_;
  mutable Mutex mutex_;
  CondVar enough_;
  std::vector<Entry> items_ ABSL_GUARDED_BY(mutex_);
  size_t wake_at_ ABSL_GUARDED_BY(mutex_) = 1;  // size at which Push wakes the reader
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sibyl::learner
