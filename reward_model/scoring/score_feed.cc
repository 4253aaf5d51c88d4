#include "reward_model/scoring/score_feed.h"

#include <algorithm>
#include <utility>

namespace sibyl::reward_model {

void ScoreFeed::MarkChanged(uint64_t id) {
  State& state = states_[id];
  if (state.changed) return;
  state.changed = true;
  changed_.push_back(id);
}

void ScoreFeed::Resend(uint64_t id) {
  MarkChanged(id);
  states_[id].resend = true;
}

std::optional<v1::ScoreUpdate> ScoreFeed::Next() {
  v1::ScoreUpdate update = NewUpdate();
  std::vector<const Caption*> captions;
  std::vector<std::optional<float>> scores;
  while (!changed_.empty() && update.id_size() + update.removed_size() == 0) {
    captions.clear();
    for (size_t rows = std::min(changed_.size(), kRowsPerUpdate); rows > 0; --rows) {
      const uint64_t id = changed_.front();
      changed_.pop_front();
      if (const Caption* caption = captions_.Find(id); caption != nullptr) {
        captions.push_back(caption);
        continue;
      }
      if (states_[id].sent) update.add_removed(id);
      states_.erase(id);
    }
    scores.assign(captions.size(), std::nullopt);
    model_.Score(captions, absl::MakeSpan(scores));
    for (size_t i = 0; i < captions.size(); ++i) {
      const Caption& caption = *captions[i];
      State& state = states_[caption.id];
      // Captions that this run has not seen are nothing to the learner.
      const bool scored = scores[i].has_value() && caption.count > 0;
      if (scored && (!state.sent || state.resend || state.score != *scores[i])) {
        update.add_id(caption.id);
        update.add_score(*scores[i]);
        state.score = *scores[i];
      } else if (!scored && state.sent) {
        update.add_removed(caption.id);
      }
      state.sent = scored;
      state.changed = state.resend = false;
      if (!scored) states_.erase(caption.id);
    }
  }
  const bool empty = update.id_size() + update.removed_size() == 0;
  if (empty && (sent_transform_.empty() || update.transform().SerializeAsString() == sent_transform_)) {
    return std::nullopt;
  }
  return Number(std::move(update));
}

void ScoreFeed::BeginSnapshot() {
  in_snapshot_ = true;
  snapshot_place_ = 0;
}

v1::ScoreUpdate ScoreFeed::NextOfSnapshot() {
  v1::ScoreUpdate update = NewUpdate();
  update.set_reset(snapshot_place_ == 0);
  size_t looked_at = 0;
  // Captions without a score cost time too.
  for (; snapshot_place_ < captions_.places() && looked_at < kRowsPerUpdate; ++snapshot_place_, ++looked_at) {
    const Caption* caption = captions_.At(snapshot_place_);
    if (caption == nullptr) continue;
    const auto it = states_.find(caption->id);
    if (it == states_.end() || !it->second.sent) continue;
    update.add_id(caption->id);
    update.add_score(it->second.score);
  }
  in_snapshot_ = snapshot_place_ < captions_.places();
  update.set_more(in_snapshot_);
  return Number(std::move(update));
}

v1::ScoreUpdate ScoreFeed::NewUpdate() const {
  v1::ScoreUpdate update;
  update.set_score_version(model_.score_version());
  *update.mutable_transform() = model_.transform();
  update.mutable_transform()->set_threshold(threshold_);
  return update;
}

v1::ScoreUpdate ScoreFeed::Number(v1::ScoreUpdate update) {
  sent_transform_ = update.transform().SerializeAsString();
  return log_.Append(std::move(update));
}

size_t ScoreFeed::bytes() const {
  return states_.capacity() * (sizeof(uint64_t) + sizeof(State) + 1) + changed_.size() * sizeof(uint64_t) +
         log_.bytes();
}

}  // namespace sibyl::reward_model
