#include "reward_model/asking/candidates.h"

#include <cmath>

namespace sibyl::reward_model {

double Urgency(uint64_t count, uint64_t last_step) {
  return std::log2(1.0 + static_cast<double>(count)) + static_cast<double>(last_step) / kUrgencyHalfLifeSteps;
}

void Candidates::Offer(uint64_t id, double urgency) {
  const auto [it, added] = urgency_.try_emplace(id, urgency);
  if (!added) {
    if (it->second == urgency) return;
    order_.erase({it->second, id});
    it->second = urgency;
  }
  order_.emplace(urgency, id);
  if (order_.size() > capacity_) {
    urgency_.erase(order_.begin()->second);
    order_.erase(order_.begin());
    ++dropped_;
  }
}

void Candidates::Remove(uint64_t id) {
  const auto it = urgency_.find(id);
  if (it == urgency_.end()) return;
  order_.erase({it->second, id});
  urgency_.erase(it);
}

std::vector<uint64_t> Candidates::Take(size_t limit) {
  std::vector<uint64_t> taken;
  while (taken.size() < limit && !order_.empty()) {
    const auto last = std::prev(order_.end());
    taken.push_back(last->second);
    urgency_.erase(last->second);
    order_.erase(last);
  }
  return taken;
}

}  // namespace sibyl::reward_model
