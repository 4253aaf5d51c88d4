#include "learner/training/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <stdexcept>

namespace sibyl::learner {
namespace {

TEST(ThreadTeam, AllMembersWorkAtTheSameTimeRoundAfterRound) {
  std::atomic<int> begun = 0;
  ThreadTeam team(4, "team", [&] { ++begun; });
  std::vector<int> rounds(4);
  std::barrier together(4);
  for (int round = 0; round < 100; ++round) {
    team.Run([&](int member) {
      together.arrive_and_wait();  // would wait for ever if one came after another
      ++rounds[member];
    });
  }
  EXPECT_EQ(rounds, std::vector<int>(4, 100));
  EXPECT_EQ(begun, 3);
}

TEST(ThreadTeam, OfOneIsTheCaller) {
  ThreadTeam team(1, "team", [] { FAIL(); });
  std::thread::id worked;
  team.Run([&](int) { worked = std::this_thread::get_id(); });
  EXPECT_EQ(worked, std::this_thread::get_id());
}

TEST(ThreadTeam, WhatAMemberThrowsReachesTheCallerAndTheTeamGoesOn) {
  ThreadTeam team(3, "team", [] {});
  for (int thrower = 0; thrower < 3; ++thrower) {
    std::atomic<int> others = 0;
    try {
      team.Run([&](int member) {
        if (member == thrower) throw std::runtime_error("member " + std::to_string(member));
        ++others;
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(std::string(e.what()), "member " + std::to_string(thrower));
    }
    EXPECT_EQ(others, 2);
  }
}

}  // namespace
}  // namespace sibyl::learner
