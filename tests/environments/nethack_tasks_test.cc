// What random and directed plays (nethack_parity_test.cc) do not come across.

#include <gtest/gtest.h>

#include <cstring>

#include "common/action_spec.h"
#include "environments/nethack/tasks.h"
#include "environments/registry.h"

namespace sibyl::nethack {
namespace {

// A game whose screen a test paints.
class TasksTest : public ::testing::Test {
 protected:
  TasksTest() {
    auto made = MakeGame({}, /*system_clock=*/false);
    EXPECT_TRUE(made.ok()) << made.status();
    game_ = *std::move(made);
    Clear();
  }
  void Clear() {
    std::fill_n(game_->observation.glyphs, kRows * kColumns, int16_t{2359});
    std::fill_n(game_->observation.blstats, kBlstats, 0);
    std::fill_n(game_->observation.internal, 9, 0);
    Stand(40, 10);
  }
  void Stand(int x, int y) {
    game_->observation.blstats[kX] = x;
    game_->observation.blstats[kY] = y;
  }
  int16_t& Glyph(int x, int y) { return game_->observation.glyphs[y * kColumns + x]; }
  bool AtGoal(const char* task) { return FindTask(task)->at_goal(*game_); }

  std::unique_ptr<Game> game_;
};

TEST_F(TasksTest, TheOracleIsNearInAllDirectionsAndNoFurther) {
  for (const char* task : {"Oracle", "OracleSober", "OracleExtended", "OracleSoberExtended"}) {
    Clear();
    EXPECT_FALSE(AtGoal(task));
    for (int dx = -2; dx <= 2; ++dx) {
      for (int dy = -2; dy <= 2; ++dy) {
        Clear();
        Glyph(40 + dx, 10 + dy) = 270;
        EXPECT_EQ(AtGoal(task), std::abs(dx) <= 1 && std::abs(dy) <= 1) << task << " " << dx << " " << dy;
      }
    }
    // A pet oracle, or one that is only remembered as detected, is another glyph.
    Clear();
    Glyph(41, 10) = 270 + 381;
    EXPECT_FALSE(AtGoal(task));
  }
}

TEST_F(TasksTest, AHallucinatedOracleIsNone) {
  Glyph(41, 11) = 270;
  for (const int64_t conditions : {0x200, 0x200 | 0x100}) {
    game_->observation.blstats[kConditions] = conditions;
    EXPECT_TRUE(AtGoal("OracleExtended"));
    EXPECT_FALSE(AtGoal("OracleSoberExtended"));
  }
  game_->observation.blstats[kConditions] = 0x100;
  EXPECT_TRUE(AtGoal("OracleSoberExtended"));
}

TEST_F(TasksTest, TheMapsEdgesAreLookedAtAsNumpyDoes) {
  Glyph(1, 1) = 270;
  for (const auto& [x, y] : {std::pair(0, 1), {1, 0}, {0, 0}}) {
    Stand(x, y);
    EXPECT_FALSE(AtGoal("Oracle")) << "a slice from -1 is empty";
  }
  Clear();
  Glyph(kColumns - 1, kRows - 1) = 270;
  Stand(kColumns - 1, kRows - 1);
  EXPECT_TRUE(AtGoal("Oracle"));
}

TEST_F(TasksTest, StairsCountWithAPetBesideThem) {
  game_->observation.internal[kOnStairsDown] = 1;
  EXPECT_TRUE(AtGoal("Staircase"));
  EXPECT_FALSE(AtGoal("StaircasePet"));
  Glyph(39, 9) = 381;
  EXPECT_TRUE(AtGoal("StaircasePet"));
  Glyph(39, 9) = 762;
  EXPECT_FALSE(AtGoal("StaircasePet"));
}

TEST_F(TasksTest, DescendingCountsOnTheLevelThatIsMeant) {
  std::strcpy(reinterpret_cast<char*>(game_->observation.message), "You descend the stairs.  You see here a rock.");
  for (int level = 1; level <= 5; ++level) {
    game_->observation.blstats[kDungeonLevel] = level;
    EXPECT_EQ(AtGoal("StaircaseLvl2"), level == 2);
    EXPECT_EQ(AtGoal("StaircaseLvl3Extended"), level == 3);
    EXPECT_EQ(AtGoal("StaircaseLvl4Continual"), level == 4);
  }
  std::strcpy(reinterpret_cast<char*>(game_->observation.message), "You fall through a trap door!");
  game_->observation.blstats[kDungeonLevel] = 2;
  EXPECT_FALSE(AtGoal("StaircaseLvl2"));
}

TEST(Challenge, EndsAfterFiveThousandActionsWithoutATurn) {
  auto environment = *MakeEnvironment("nethack/Challenge");
  const std::vector<void*> nowhere(environment->spec().observation_size(), nullptr);
  ASSERT_TRUE(environment->Reset(1, nowhere).ok());
  int escape = 0;
  while (Choices(environment->spec().action())[escape] != "esc") ++escape;
  for (int step = 1; step < 5000; ++step) {
    const auto result = environment->Step(escape, nowhere);
    ASSERT_FALSE(result->terminated || result->truncated) << step;
  }
  const auto result = environment->Step(escape, nowhere);
  EXPECT_TRUE(result->truncated);
  EXPECT_FALSE(result->terminated);
  EXPECT_TRUE(result->package_terminated && result->package_truncated);
}

}  // namespace
}  // namespace sibyl::nethack
