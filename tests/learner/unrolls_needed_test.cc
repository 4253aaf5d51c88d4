// UnrollsNeeded promises that neither playing nor training can wait for ever. Here the real pool is played against
// actors and a trainer of all sizes, on thousands of schedules.

#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "learner/experience/unroll_pool.h"
#include "learner/sizes.h"

namespace sibyl::learner {
namespace {

constexpr UnrollShape kShape{.length = 1, .observation_bytes = 1};

// Groups of environments that fill unrolls, and a trainer that takes a batch of them.
class Play {
 public:
  Play(int batch, int group, uint64_t seed, int missing = 0)
      : batch_(batch), group_(group), missing_(missing), random_(seed) {}

  // An actor comes: `groups` groups of `rows` environments.
  void Join(int groups, int rows) {
    const int actor = next_actor_++;
    for (int i = 0; i < groups; ++i) {
      groups_[next_group_] = {actor, rows, {}};
      environments_ += rows;
      Fit();
      Ask(next_group_++);
    }
  }
  // The actor of a group leaves with all its groups.
  void Leave() {
    if (groups_.empty()) return;
    const int actor = Any()->second.actor;
    for (auto it = groups_.begin(); it != groups_.end();) {
      if (it->second.actor != actor) {
        ++it;
        continue;
      }
      pool_.Withdraw(it->first);
      pool_.Release(std::move(it->second.unrolls));
      environments_ -= it->second.rows;
      it = groups_.erase(it);
    }
    Fit();
  }

  // Does one thing that can be done, drawn at random; groups before training where `eager`, so that as many unrolls as
  // possible are finished and none released. False when nothing can be done any more.
  bool Step(bool eager) {
    std::vector<uint64_t> playing;
    for (const auto& [id, group] : groups_) {
      if (!group.unrolls.empty()) playing.push_back(id);
    }
    const bool training = !trained_.empty() || pool_.finished() >= batch_;
    if (playing.empty() && !training) return groups_.empty();
    if (!playing.empty() && (eager || !training || random_.Below(2) == 0)) {
      const uint64_t id = playing[random_.Below(playing.size())];
      pool_.Finish(std::move(groups_[id].unrolls));
      groups_[id].unrolls.clear();
      Ask(id);
    } else if (!trained_.empty()) {
      pool_.Release(std::move(trained_));
      trained_.clear();
      ++updates_;
    } else {
      EXPECT_TRUE(pool_.PopFinished(batch_, &trained_));
    }
    return true;
  }
  int updates() const { return updates_; }

 private:
  struct Group {
    int actor, rows;
    Unrolls unrolls;  // empty: it waits
  };
  std::map<uint64_t, Group>::iterator Any() {
    return std::next(groups_.begin(), static_cast<std::ptrdiff_t>(random_.Below(groups_.size())));
  }
  void Fit() { pool_.SetCapacity(UnrollsNeeded(environments_, batch_, group_) - missing_); }
  void Ask(uint64_t id) {
    groups_[id].unrolls = pool_.Request(id, groups_[id].rows, [this, id](Unrolls unrolls) {
      ASSERT_TRUE(groups_.contains(id));
      groups_[id].unrolls = std::move(unrolls);
    });
  }

  const int batch_, group_, missing_;
  Random random_;
  UnrollPool pool_{kShape, 0, &Clock::Real()};
  std::map<uint64_t, Group> groups_;
  Unrolls trained_;
  int environments_ = 0, next_actor_ = 0, updates_ = 0;
  uint64_t next_group_ = 1;
};

TEST(UnrollsNeeded, NoScheduleOfAnyActorsAndBatchWaitsForEver) {
  int cases = 0;
  for (int batch = 1; batch <= 13; ++batch) {
    for (int environments : {1, 2, 4, 6, 9, 12}) {
      for (int groups = 1; groups <= environments; ++groups) {
        if (environments % groups != 0) continue;
        const int rows = environments / groups;
        for (int central = 0; central <= 3; ++central) {
          for (int local = central == 0; local <= 2; ++local) {
            SCOPED_TRACE(absl::StrCat(central, " actors of ", groups, " x ", rows, " and ", local, " local ones of ",
                                      environments, ", batch ", batch));
            Play play(batch, rows, ++cases);
            for (int i = 0; i < central; ++i) play.Join(groups, rows);
            for (int i = 0; i < local; ++i) play.Join(1, environments);
            for (int step = 0; step < 60; ++step) ASSERT_TRUE(play.Step(step % 30 < 20)) << "nothing can move any more";
            const int before = play.updates();
            for (int step = 0; step < 40 + 4 * batch; ++step) ASSERT_TRUE(play.Step(false));
            EXPECT_GT(play.updates(), before);
          }
        }
      }
    }
  }
  EXPECT_GT(cases, 2000);
}

TEST(UnrollsNeeded, NothingWaitsForEverWhileActorsComeAndGo) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int rows = 1 + static_cast<int>(random.Below(5)), groups = 1 + static_cast<int>(random.Below(3));
    Play play(1 + static_cast<int>(random.Below(20)), rows, seed);
    for (int round = 0; round < 40; ++round) {
      switch (random.Below(3)) {
        case 0:
          play.Join(groups, rows);
          break;
        case 1:
          play.Join(1, groups * rows);
          break;
        default:
          play.Leave();
      }
      for (int step = 0; step < 15; ++step) ASSERT_TRUE(play.Step(random.Below(2) == 0)) << "nothing can move any more";
    }
  }
}

TEST(UnrollsNeeded, FewerThanABatchWouldStopTraining) {
  Play play(/*batch=*/8, /*group=*/4, /*seed=*/1, /*missing=*/UnrollsNeeded(4, 8, 4) - 7);
  play.Join(1, 4);
  bool moves = true;
  for (int step = 0; step < 100 && moves; ++step) moves = play.Step(true);
  EXPECT_FALSE(moves);
}

}  // namespace
}  // namespace sibyl::learner
