#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/rank.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::learner {

// Counts the run's episodes, and keeps running means over the last ones. Any thread.
class EpisodeStats {
 public:
  // `window`: episodes in the running means. `figures`: EnvironmentSpec.figures.
  EpisodeStats(int window, std::vector<std::string> figures) : window_(window), names_(std::move(figures)) {}

  // Adds episodes that ended. Episodes that the actor cut off do not count.
  void Add(const google::protobuf::RepeatedPtrField<v1::EpisodeEnd>& episodes);
  // Adds episodes whose actor was lost. They are counted apart, never as failures.
  void Abandon(uint64_t episodes);

  // Starts to collect what TakeNews gives.
  void CollectNews();
  // For ranks above 0: the episodes that ended since the last call, and the number of those that were abandoned.
  void TakeNews(v1::RankNews* news);

  struct Means {
    uint64_t episodes = 0, abandoned = 0;  // over the run
    int in_window = 0;
    double success_rate = 0, episode_return = 0, length = 0;  // over the window; 0 when it is empty
    std::vector<std::pair<std::string, double>> figures;      // over this process's part of the window
  };
  Means Get() const;

  void Save(v1::LearnerState* state) const;
  void Load(const v1::LearnerState& state);

 private:
  const int window_;
  const std::vector<std::string> names_;
  mutable Mutex mutex_;
  uint64_t episodes_ ABSL_GUARDED_BY(mutex_) = 0, abandoned_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<v1::EpisodeRecord> recent_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::vector<double>> recent_figures_ ABSL_GUARDED_BY(mutex_);
  bool collects_news_ ABSL_GUARDED_BY(mutex_) = false;
  v1::RankNews news_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::learner
