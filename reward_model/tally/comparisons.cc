#include "reward_model/tally/comparisons.h"

namespace sibyl::reward_model {

const Comparison* Comparisons::Find(OrderedPair pair) const {
  const auto it = all_.find(pair);
  return it == all_.end() ? nullptr : &it->second;
}

void Comparisons::Add(OrderedPair pair, const Comparison& comparison) {
  all_.insert_or_assign(pair, comparison);
  const Comparison* other = Find({pair.second, pair.first});
  if (!comparison.answered || other == nullptr || !other->answered) return;
  ++both_orders_;
  flips_ += (comparison.first_better - 0.5) * (other->first_better - 0.5) > 0;
}

void Comparisons::Clear() {
  all_.clear();
  both_orders_ = flips_ = 0;
}

}  // namespace sibyl::reward_model
