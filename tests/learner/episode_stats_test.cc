#include "learner/experience/episode_stats.h"

#include <gtest/gtest.h>

namespace sibyl::learner {
namespace {

TEST(EpisodeStats, LeavesOutWhatTheActorCutOff) {
  google::protobuf::RepeatedPtrField<v1::EpisodeEnd> ends;
  for (const bool cut_off : {false, true, true}) {
    v1::EpisodeEnd* end = ends.Add();
    end->set_length(cut_off ? 1 : 50);
    end->set_episode_return(cut_off ? 0 : 0.5);
    end->set_success(!cut_off);
    end->set_cut_off(cut_off);
  }
  EpisodeStats stats(10, {});
  stats.Add(ends);
  const EpisodeStats::Means means = stats.Get();
  EXPECT_EQ(means.episodes, 1u);
  EXPECT_EQ(means.in_window, 1);
  EXPECT_EQ(means.success_rate, 1);
  EXPECT_EQ(means.episode_return, 0.5);
  EXPECT_EQ(means.length, 50);
}

}  // namespace
}  // namespace sibyl::learner
