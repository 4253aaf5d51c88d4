#include "learner/experience/unroll_pool.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

namespace sibyl::learner {

std::vector<int32_t> Unroll::CaptionRows(int filled_steps) const {
  std::vector<int32_t> rows(seen_caption.begin(), seen_caption.begin() + filled_steps + 1);
  rows.insert(rows.end(), paid_caption.begin(), paid_caption.begin() + filled_steps);
  return rows;
}

size_t UnrollShape::Bytes() const {
  const size_t steps = length, seen = steps + 1;
  const size_t of_seen = observation_bytes + sizeof(uint8_t) + sizeof(uint64_t) + sizeof(int32_t) + sizeof(uint32_t);
  const size_t of_step = sizeof(int32_t) + sizeof(uint32_t) + action_bytes + sizeof(float) +
                         (counts_observations ? sizeof(uint32_t) : 0) + value_heads * sizeof(float) + sizeof(uint64_t) +
                         sizeof(float) + 2 * sizeof(uint8_t);
  return sizeof(Unroll) + seen * of_seen + steps * of_step + state_size * sizeof(float);
}

UnrollPool::UnrollPool(const UnrollShape& shape, int capacity, Clock* clock)
    : shape_(shape), clock_(clock), capacity_(capacity) {}

std::unique_ptr<Unroll> UnrollPool::Make() const {
  const size_t steps = shape_.length, seen = steps + 1;
  auto unroll = std::make_unique<Unroll>();
  unroll->observation.resize(seen * shape_.observation_bytes);
  unroll->first.resize(seen);
  unroll->episode.resize(seen);
  unroll->seen_caption.resize(seen);
  unroll->seen_count.resize(seen);
  unroll->paid_caption.resize(steps);
  unroll->paid_count.resize(steps);
  if (shape_.counts_observations) unroll->observation_count.resize(steps);
  unroll->action.resize(steps * shape_.action_bytes);
  unroll->log_prob.resize(steps);
  unroll->value.resize(steps * shape_.value_heads);
  unroll->policy_version.resize(steps);
  unroll->reward.resize(steps);
  unroll->terminated.resize(steps);
  unroll->truncated.resize(steps);
  unroll->state.resize(shape_.state_size);
  return unroll;
}

UnrollPool::Grant UnrollPool::Allot(int count, Granted granted) {
  Grant grant{std::move(granted), {}, 0};
  while (static_cast<int>(grant.unrolls.size()) < count && !free_.empty()) {
    grant.unrolls.push_back(std::move(free_.back()));
    free_.pop_back();
  }
  grant.missing = count - static_cast<int>(grant.unrolls.size());
  existing_ += grant.missing;
  return grant;
}

std::vector<UnrollPool::Grant> UnrollPool::Serve() {
  std::vector<Grant> grants;
  while (!closed_ && !waiting_.empty()) {
    const int available = capacity_ - existing_ + static_cast<int>(free_.size());
    Waiting& oldest = waiting_.front();
    if (oldest.count > available) break;
    grants.push_back(Allot(oldest.count, std::move(oldest.granted)));
    waiting_.pop_front();
  }
  return grants;
}

void UnrollPool::Deliver(std::vector<Grant> grants) {
  for (Grant& grant : grants) {
    for (; grant.missing > 0; --grant.missing) grant.unrolls.push_back(Make());
    grant.granted(std::move(grant.unrolls));
  }
}

Unrolls UnrollPool::TakeSurplus() {
  Unrolls surplus;
  for (; existing_ > capacity_ && !free_.empty(); --existing_) {
    surplus.push_back(std::move(free_.back()));
    free_.pop_back();
  }
  return surplus;
}

void UnrollPool::Free(Unrolls surplus) {
  if (surplus.empty()) return;
  surplus.clear();
  malloc_trim(0);  // KeepMemory has told the allocator to keep what is freed
}

void UnrollPool::SetCapacity(int capacity) {
  std::vector<Grant> grants;
  Unrolls surplus;
  {
    MutexLock lock(mutex_);
    capacity_ = capacity;
    surplus = TakeSurplus();
    grants = Serve();
  }
  Free(std::move(surplus));
  Deliver(std::move(grants));
}

Unrolls UnrollPool::Request(uint64_t owner, int count, Granted granted) {
  Grant grant;
  {
    MutexLock lock(mutex_);
    if (closed_) return {};
    if (!waiting_.empty() || capacity_ - existing_ + static_cast<int>(free_.size()) < count) {
      waiting_.push_back({owner, count, std::move(granted)});
      return {};
    }
    grant = Allot(count, nullptr);
  }
  for (; grant.missing > 0; --grant.missing) grant.unrolls.push_back(Make());
  return std::move(grant.unrolls);
}

void UnrollPool::Withdraw(uint64_t owner) {
  std::vector<Grant> grants;
  {
    MutexLock lock(mutex_);
    std::erase_if(waiting_, [owner](const Waiting& waiting) { return waiting.owner == owner; });
    grants = Serve();  // the next one may want less
  }
  Deliver(std::move(grants));
}

void UnrollPool::Finish(Unrolls unrolls) {
  if (unrolls.empty()) return;
  MutexLock lock(mutex_);
  for (auto& unroll : unrolls) finished_.push_back(std::move(unroll));
  if (wanted_ > 0 && static_cast<int>(finished_.size()) >= wanted_) enough_finished_.NotifyAll();
}

void UnrollPool::Release(Unrolls unrolls) {
  if (unrolls.empty()) return;
  for (auto& unroll : unrolls) unroll->finals.clear();
  std::vector<Grant> grants;
  Unrolls surplus;
  {
    MutexLock lock(mutex_);
    for (auto& unroll : unrolls) free_.push_back(std::move(unroll));
    surplus = TakeSurplus();
    grants = Serve();
  }
  Free(std::move(surplus));
  Deliver(std::move(grants));
}

bool UnrollPool::PopFinishedWithin(absl::Duration limit, int count, Unrolls* unrolls) {
  const absl::Time until = clock_->Now() + limit;
  MutexLock lock(mutex_);
  wanted_ = count;
  while (!closed_ && static_cast<int>(finished_.size()) < count) {
    const absl::Duration left = until - clock_->Now();
    if (left <= absl::ZeroDuration()) break;
    clock_->WaitFor(enough_finished_, mutex_, left);
  }
  wanted_ = 0;
  if (closed_ || static_cast<int>(finished_.size()) < count) return false;
  unrolls->clear();
  for (int i = 0; i < count; ++i) {
    unrolls->push_back(std::move(finished_.front()));
    finished_.pop_front();
  }
  return true;
}

bool UnrollPool::closed() const {
  MutexLock lock(mutex_);
  return closed_;
}

void UnrollPool::Close() {
  std::deque<Waiting> dropped;
  MutexLock lock(mutex_);
  closed_ = true;
  dropped.swap(waiting_);
  enough_finished_.NotifyAll();
}

int UnrollPool::capacity() const {
  MutexLock lock(mutex_);
  return capacity_;
}

int UnrollPool::free() const {
  MutexLock lock(mutex_);
  return std::max(0, capacity_ - existing_ + static_cast<int>(free_.size()));
}

int UnrollPool::finished() const {
  MutexLock lock(mutex_);
  return static_cast<int>(finished_.size());
}

size_t UnrollPool::bytes() const {
  MutexLock lock(mutex_);
  return existing_ * shape_.Bytes();
}

}  // namespace sibyl::learner
