#include "learner/experience/unroll_pool.h"

namespace sibyl::learner {

std::vector<int32_t> Unroll::CaptionRows(int filled_steps) const {
  std::vector<int32_t> rows(seen_caption.begin(), seen_caption.begin() + filled_steps + 1);
  rows.insert(rows.end(), paid_caption.begin(), paid_caption.begin() + filled_steps);
  return rows;
}

UnrollPool::UnrollPool(int size, int unroll_length, size_t observation_bytes, int64_t state_size, int value_heads)
    : unrolls_(size) {
  const size_t steps = unroll_length, seen = steps + 1;
  for (int i = size - 1; i >= 0; --i) free_.push_back(i);
  for (Unroll& unroll : unrolls_) {
    unroll.observation.resize(seen * observation_bytes);
    unroll.first.resize(seen);
    unroll.episode.resize(seen);
    unroll.seen_caption.resize(seen);
    unroll.seen_count.resize(seen);
    unroll.paid_caption.resize(steps);
    unroll.paid_count.resize(steps);
    unroll.action.resize(steps);
    unroll.log_prob.resize(steps);
    unroll.value.resize(steps * value_heads);
    unroll.version.resize(steps);
    unroll.reward.resize(steps);
    unroll.terminated.resize(steps);
    unroll.truncated.resize(steps);
    unroll.state.resize(state_size);
  }
}

bool UnrollPool::Take(int count, Claim* claim, std::vector<int>* indices) {
  indices->clear();
  if (count == 0) return true;
  MutexLock lock(mutex_);
  const bool oldest = claims_.empty() || *claims_.begin() == *claim;
  if (!oldest || static_cast<int>(free_.size()) < count) {
    if (*claim == 0) claims_.insert(*claim = ++last_claim_);
    return false;
  }
  Leave(claim);
  indices->assign(free_.end() - count, free_.end());
  free_.resize(free_.size() - count);
  for (int index : *indices) unrolls_[index].finals.clear();
  return true;
}

void UnrollPool::Withdraw(Claim* claim) {
  MutexLock lock(mutex_);
  Leave(claim);
}

void UnrollPool::Leave(Claim* claim) {
  if (*claim == 0) return;
  claims_.erase(*claim);
  *claim = 0;
  released_.NotifyAll();  // the next one may have enough
}

void UnrollPool::Finish(const std::vector<int>& indices) {
  if (indices.empty()) return;
  MutexLock lock(mutex_);
  finished_.insert(finished_.end(), indices.begin(), indices.end());
  finished_or_closed_.NotifyAll();
}

void UnrollPool::Release(const std::vector<int>& indices) {
  MutexLock lock(mutex_);
  free_.insert(free_.end(), indices.begin(), indices.end());
  released_.NotifyAll();
}

bool UnrollPool::PopFinished(int count, std::vector<int>* indices) {
  return PopFinishedWithin(std::chrono::hours(24 * 365), count, indices);
}

bool UnrollPool::PopFinishedWithin(std::chrono::nanoseconds limit, int count, std::vector<int>* indices) {
  const auto until = std::chrono::steady_clock::now() + limit;
  MutexLock lock(mutex_);
  while (!closed_ && static_cast<int>(finished_.size()) < count) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero()) return false;
    finished_or_closed_.WaitFor(mutex_, left);
  }
  if (closed_) return false;
  indices->assign(finished_.begin(), finished_.begin() + count);
  finished_.erase(finished_.begin(), finished_.begin() + count);
  return true;
}

bool UnrollPool::closed() const {
  MutexLock lock(mutex_);
  return closed_;
}

void UnrollPool::WaitForRelease() {
  MutexLock lock(mutex_);
  if (!closed_) released_.WaitFor(mutex_, std::chrono::milliseconds(50));
}

void UnrollPool::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
  finished_or_closed_.NotifyAll();
  released_.NotifyAll();
}

int UnrollPool::free() const {
  MutexLock lock(mutex_);
  return static_cast<int>(free_.size());
}

int UnrollPool::finished() const {
  MutexLock lock(mutex_);
  return static_cast<int>(finished_.size());
}

}  // namespace sibyl::learner
