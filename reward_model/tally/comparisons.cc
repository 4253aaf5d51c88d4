#include "reward_model/tally/comparisons.h"

#include <algorithm>

namespace sibyl::reward_model {

const Comparison* Comparisons::Find(OrderedPair pair) const {
  const auto it = number_of_.find(pair);
  return it == number_of_.end() ? nullptr : &entries_[it->second - first_number_].comparison;
}

void Comparisons::Add(OrderedPair pair, const Comparison& comparison) {
  if (const auto it = number_of_.find(pair); it != number_of_.end()) {
    Entry& entry = entries_[it->second - first_number_];
    CountBothOrders(entry, -1);
    entry.comparison = comparison;
    CountBothOrders(entry, 1);
    if (it->second < unsaved_from_) replaced_.push_back(it->second);
    return;
  }
  if (entries_.size() >= capacity_) {
    CountBothOrders(entries_.front(), -1);
    number_of_.erase(entries_.front().pair);
    entries_.pop_front();
    ++first_number_;
    ++forgotten_;
  }
  number_of_[pair] = end_number();
  entries_.push_back({pair, comparison});
  CountBothOrders(entries_.back(), 1);
}

void Comparisons::Clear() {
  first_number_ = end_number();
  unsaved_from_ = first_number_;
  replaced_.clear();
  entries_.clear();
  number_of_.clear();
  both_orders_ = flips_ = 0;
}

void Comparisons::BeginFile() {
  unsaved_from_ = first_number_;
  replaced_.clear();
}

const Comparisons::Entry* Comparisons::TakeUnsaved() {
  while (!replaced_.empty()) {
    const uint64_t number = replaced_.back();
    replaced_.pop_back();
    if (number >= first_number_) return &entries_[number - first_number_];
  }
  unsaved_from_ = std::max(unsaved_from_, first_number_);  // what was forgotten meanwhile
  return unsaved_from_ < end_number() ? &entries_[unsaved_from_++ - first_number_] : nullptr;
}

void Comparisons::CountBothOrders(const Entry& entry, int sign) {
  const Comparison* other = Find({entry.pair.second, entry.pair.first});
  if (!entry.comparison.answered || other == nullptr || !other->answered) return;
  both_orders_ += sign;
  if ((entry.comparison.first_better - 0.5) * (other->first_better - 0.5) > 0) flips_ += sign;
}

size_t Comparisons::bytes() const {
  return entries_.size() * sizeof(Entry) + number_of_.capacity() * (sizeof(OrderedPair) + sizeof(uint64_t) + 1);
}

}  // namespace sibyl::reward_model
