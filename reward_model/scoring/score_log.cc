#include "reward_model/scoring/score_log.h"

namespace sibyl::reward_model {
namespace {

// An update without rows takes memory too.
size_t Rows(const v1::ScoreUpdate& update) { return 1 + update.id_size() + update.removed_size(); }

}  // namespace

v1::ScoreUpdate ScoreLog::Append(v1::ScoreUpdate update) {
  update.set_sequence(++last_sequence_);
  if (update.reset() || in_snapshot_) {
    history_.clear();
    rows_ = 0;
    in_snapshot_ = update.more();
    return update;
  }
  rows_ += Rows(update);
  history_.push_back(update);
  while (rows_ > max_rows_) {
    rows_ -= Rows(history_.front());
    history_.pop_front();
  }
  return update;
}

std::optional<std::vector<v1::ScoreUpdate>> ScoreLog::Since(uint64_t last_sequence) const {
  const uint64_t before_first = last_sequence_ - history_.size();
  if (in_snapshot_ || last_sequence == 0 || last_sequence < before_first || last_sequence > last_sequence_)
    return std::nullopt;
  return std::vector<v1::ScoreUpdate>(history_.begin() + (last_sequence - before_first), history_.end());
}

}  // namespace sibyl::reward_model
