#include "learner/experience/episode_stats.h"

namespace sibyl::learner {

void EpisodeStats::Add(const google::protobuf::RepeatedPtrField<v1::EpisodeEnd>& episodes) {
  MutexLock lock(mutex_);
  if (collects_news_) news_.mutable_episodes()->MergeFrom(episodes);
  for (const v1::EpisodeEnd& episode : episodes) {
    if (episode.cut_off()) continue;
    ++episodes_;
    v1::EpisodeRecord& record = recent_.emplace_back();
    record.set_episode_return(episode.episode_return());
    record.set_success(episode.success());
    record.set_length(episode.length());
    if (static_cast<int>(recent_.size()) > window_) recent_.pop_front();
    if (episode.figures_size() == static_cast<int>(names_.size())) {
      recent_figures_.emplace_back(episode.figures().begin(), episode.figures().end());
      if (static_cast<int>(recent_figures_.size()) > window_) recent_figures_.pop_front();
    }
  }
}

void EpisodeStats::Abandon(uint64_t episodes) {
  MutexLock lock(mutex_);
  abandoned_ += episodes;
  if (collects_news_) news_.set_abandoned_episodes(news_.abandoned_episodes() + episodes);
}

void EpisodeStats::CollectNews() {
  MutexLock lock(mutex_);
  collects_news_ = true;
}

void EpisodeStats::TakeNews(v1::RankNews* news) {
  MutexLock lock(mutex_);
  news->mutable_episodes()->Swap(news_.mutable_episodes());
  news->set_abandoned_episodes(news_.abandoned_episodes());
  news_.Clear();
}

EpisodeStats::Means EpisodeStats::Get() const {
  MutexLock lock(mutex_);
  Means means;
  means.episodes = episodes_;
  means.abandoned = abandoned_;
  means.in_window = static_cast<int>(recent_.size());
  for (const v1::EpisodeRecord& record : recent_) {
    means.success_rate += record.success() ? 1 : 0;
    means.episode_return += record.episode_return();
    means.length += record.length();
  }
  if (!recent_.empty()) {
    means.success_rate /= means.in_window;
    means.episode_return /= means.in_window;
    means.length /= means.in_window;
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    double sum = 0;
    for (const auto& figures : recent_figures_) sum += figures[i];
    means.figures.emplace_back(names_[i],
                               recent_figures_.empty() ? 0 : sum / static_cast<double>(recent_figures_.size()));
  }
  return means;
}

void EpisodeStats::Save(v1::LearnerState* state) const {
  MutexLock lock(mutex_);
  state->set_episodes(episodes_);
  state->set_abandoned_episodes(abandoned_);
  for (const v1::EpisodeRecord& record : recent_) *state->add_window() = record;
}

void EpisodeStats::Load(const v1::LearnerState& state) {
  MutexLock lock(mutex_);
  episodes_ = state.episodes();
  abandoned_ = state.abandoned_episodes();
  recent_.assign(state.window().begin(), state.window().end());
}

}  // namespace sibyl::learner
