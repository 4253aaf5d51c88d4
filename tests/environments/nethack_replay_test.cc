#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl {
namespace {

// An environment, and everything that it showed since the last Reset.
struct Replay {
  explicit Replay(const EnvironmentOptions& options = {}) {
    auto made = MakeEnvironment("debug/NetHackReplay", options);
    EXPECT_TRUE(made.ok()) << made.status();
    environment = std::move(made).value();
    observation.resize(ObservationBytes(environment->spec()));
    char* at = observation.data();
    for (const v1::TensorSpec& array : environment->spec().observation()) {
      arrays.push_back(at);
      at += Bytes(array);
    }
  }

  // Plays the episode to its end; returns its length.
  int Play(uint64_t seed) {
    shown.clear();
    captions.clear();
    EXPECT_TRUE(environment->Reset(seed, arrays).ok());
    for (int step = 1;; ++step) {
      shown += observation;
      captions.emplace(environment->Caption());
      const auto result = environment->Step(step % 23, arrays);
      EXPECT_TRUE(result.ok()) << result.status();
      if (!result->terminated && !result->truncated) continue;
      last = *result;
      return step;
    }
  }

  std::unique_ptr<Environment> environment;
  std::string observation, shown;
  std::vector<void*> arrays;
  std::set<std::string> captions;
  StepResult last;
};

TEST(NetHackReplay, ShowsWhatNetHackShows) {
  Replay replay;
  v1::EnvironmentSpec spec = *FindEnvironmentSpec("nethack/Score");
  EXPECT_GE(spec.max_episode_steps(), 1524u);
  spec.set_name("debug/NetHackReplay");
  EXPECT_EQ(Difference(replay.environment->spec(), spec), "");
  replay.Play(1);
  EXPECT_GT(replay.captions.size(), 5u);
  // Maps with a hero in nearly all of them, and few shown twice.
  const size_t bytes = replay.observation.size(), shown = replay.shown.size() / bytes;
  std::set<std::string> distinct;
  size_t heroes = 0;
  for (size_t at = 0; at < replay.shown.size(); at += bytes) {
    const std::string observation = replay.shown.substr(at, bytes);
    distinct.insert(observation);
    heroes += observation.find('@') != std::string::npos;
  }
  EXPECT_GT(heroes, shown / 10 * 8);
  EXPECT_GT(distinct.size(), shown / 3);
}

TEST(NetHackReplay, AnEpisodeFollowsFromItsSeed) {
  Replay one, other;
  other.Play(7);
  for (const uint64_t seed : {2, 3}) {
    const int length = one.Play(seed);
    EXPECT_EQ(other.Play(seed), length);
    EXPECT_GE(length, 500);
    EXPECT_LE(length, 1523);
    EXPECT_EQ(one.last.terminated, seed % 2 == 1);
    EXPECT_NE(one.last.truncated, one.last.terminated);
    EXPECT_TRUE(one.shown == other.shown);
  }
  one.Play(4);
  EXPECT_FALSE(one.shown == other.shown);
  EXPECT_EQ(Replay({.max_episode_steps = 20}).Play(3), 20);
}

}  // namespace
}  // namespace sibyl
