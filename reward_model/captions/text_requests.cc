#include "reward_model/captions/text_requests.h"

namespace sibyl::reward_model {

void TextRequests::Want(uint64_t id) {
  if (missing_.try_emplace(id, absl::InfinitePast()).second) queue_.push_back(id);
}

void TextRequests::Clear() {
  missing_.clear();
  queue_.clear();
  in_flight_.clear();
}

std::vector<uint64_t> TextRequests::Next(absl::Time now) {
  std::deque<std::pair<absl::Time, uint64_t>> still;
  for (const auto& [asked, id] : in_flight_) {
    const auto it = missing_.find(id);
    if (it == missing_.end() || it->second != asked) continue;
    if (now - asked < kRetryAfter) {
      still.emplace_back(asked, id);
    } else {
      it->second = absl::InfinitePast();
      queue_.push_back(id);
    }
  }
  in_flight_ = std::move(still);
  std::vector<uint64_t> ids;
  while (!queue_.empty() && in_flight_.size() < kMaxInFlight) {
    const uint64_t id = queue_.front();
    queue_.pop_front();
    const auto it = missing_.find(id);
    if (it == missing_.end() || it->second != absl::InfinitePast()) continue;
    it->second = now;
    in_flight_.emplace_back(now, id);
    ids.push_back(id);
  }
  return ids;
}

}  // namespace sibyl::reward_model
