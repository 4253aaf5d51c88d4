// MiniGrid's captions, contexts, figures and ends, in worlds made by hand and through the Environment interface.
// That the games are Farama's is minigrid_parity_test's subject.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "common/action_spec.h"
#include "common/random.h"
#include "environments/minigrid/family.h"
#include "environments/minigrid/levels.h"
#include "environments/minigrid/text.h"
#include "environments/minigrid/world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

// Counted by the operators below, which are not inlined because GCC then takes their pairs for mismatched ones.
int64_t allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace sibyl::minigrid {
namespace {

using ::testing::ElementsAre;

// An agent in the middle of a 9x9 room, facing up.
World Room() {
  World world;
  world.grid.Clear(9, 9);
  world.grid.WallAround({0, 0}, 9, 9);
  world.agent = {4, 4};
  world.direction = 3;
  world.mission = "do as you like";
  return world;
}

// ... with a thing before it.
World RoomWith(Cell thing, Cell carrying = kEmpty) {
  World world = Room();
  world.grid.Set({4, 3}, thing);
  world.carrying = carrying;
  return world;
}

std::string CaptionOf(World world, Action action) { return std::string(EventCaption(Act(world, action).event)); }

constexpr Cell kYellowKey = Thing(Type::kKey, Colour::kYellow);
constexpr Cell kRedBall = Thing(Type::kBall, Colour::kRed);
constexpr Cell kBlueBox = Thing(Type::kBox, Colour::kBlue);

TEST(Caption, SaysWhatIsPickedUp) {
  EXPECT_EQ(CaptionOf(RoomWith(kYellowKey), Action::kPickUp), "You pick up the yellow key.");
  EXPECT_EQ(CaptionOf(RoomWith(BoxWith(Colour::kGrey, kYellowKey)), Action::kPickUp), "You pick up the grey box.");
}

TEST(Caption, SaysWhatIsDropped) {
  EXPECT_EQ(CaptionOf(RoomWith(kEmpty, kRedBall), Action::kDrop), "You drop the red ball.");
}

TEST(Caption, TellsUnlockingFromOpeningAndClosing) {
  const auto door = [](DoorState state) { return RoomWith(Door(Colour::kYellow, state), kYellowKey); };
  EXPECT_EQ(CaptionOf(door(DoorState::kLocked), Action::kToggle), "You unlock the yellow door.");
  EXPECT_EQ(CaptionOf(door(DoorState::kClosed), Action::kToggle), "You open the yellow door.");
  EXPECT_EQ(CaptionOf(door(DoorState::kOpen), Action::kToggle), "You close the yellow door.");
}

TEST(Caption, SaysWhatWasInABox) {
  EXPECT_EQ(CaptionOf(RoomWith(BoxWith(Colour::kBlue, kYellowKey)), Action::kToggle),
            "You open the blue box and find a yellow key.");
  EXPECT_EQ(CaptionOf(RoomWith(kBlueBox), Action::kToggle), "You open the blue box and find nothing.");
}

TEST(Caption, SaysHowTheEpisodeEnds) {
  EXPECT_EQ(CaptionOf(RoomWith(kGoal), Action::kForward), "You reach the goal.");
  EXPECT_EQ(CaptionOf(RoomWith(kLava), Action::kForward), "You step into the lava.");
}

TEST(Caption, IsEmptyWhereNothingChanged) {
  for (const Action action : {Action::kLeft, Action::kRight, Action::kForward, Action::kPickUp, Action::kDrop,
                              Action::kToggle, Action::kDone}) {
    EXPECT_EQ(CaptionOf(Room(), action), "");
    EXPECT_EQ(CaptionOf(RoomWith(kWall, kRedBall), action), "");
  }
  EXPECT_EQ(CaptionOf(RoomWith(Door(Colour::kRed, DoorState::kLocked), kYellowKey), Action::kToggle), "")
      << "the key does not fit";
  EXPECT_EQ(CaptionOf(RoomWith(kYellowKey, kRedBall), Action::kPickUp), "") << "hands full";
  EXPECT_EQ(CaptionOf(RoomWith(kGoal, kRedBall), Action::kDrop), "") << "no room";
}

TEST(Act, EndsTheEpisodeOnlyWithTheTargetInHand) {
  World world = RoomWith(kRedBall);
  world.objective = Objective::kPickUp;
  world.target = Thing(Type::kBall, Colour::kBlue);
  EXPECT_FALSE(Act(world, Action::kPickUp).terminated);
  world = RoomWith(kRedBall);
  world.objective = Objective::kPickUp;
  world.target = kRedBall;
  const Outcome outcome = Act(world, Action::kPickUp);
  EXPECT_TRUE(outcome.terminated && outcome.success);
  EXPECT_EQ(EventCaption(outcome.event), "You pick up the red ball.");
}

TEST(Act, KeepsABoxsContentsWhileItIsCarried) {
  World world = RoomWith(BoxWith(Colour::kGrey, kYellowKey));
  Act(world, Action::kPickUp);
  Act(world, Action::kLeft);
  Act(world, Action::kDrop);
  EXPECT_EQ(EventCaption(Act(world, Action::kToggle).event), "You open the grey box and find a yellow key.");
  EXPECT_EQ(EventCaption(Act(world, Action::kPickUp).event), "You pick up the yellow key.");
}

TEST(Describe, SaysWhereThingsAreNearestFirst) {
  World world = Room();
  EXPECT_EQ(Describe(world), "Goal: do as you like. You see nothing. You carry nothing.");
  world.grid.Set({2, 4}, Door(Colour::kGreen, DoorState::kOpen));
  world.grid.Set({5, 4}, kGoal);
  world.grid.Set({3, 2}, kYellowKey);
  world.grid.Set({4, 1}, Door(Colour::kRed, DoorState::kLocked));
  world.grid.Set({5, 1}, kLava);
  world.carrying = kRedBall;
  EXPECT_EQ(
      Describe(world),
      "Goal: do as you like. You see an open green door 2 steps left, the goal 1 step right, a yellow key 2 steps "
      "ahead and 1 step left, a locked red door 3 steps ahead, lava 3 steps ahead and 1 step right. You carry a "
      "red ball.");
}

TEST(Describe, LeavesOutWhatIsHidden) {
  World world = Room();
  world.grid.FillRight(1, 2, 7, kWall);
  world.grid.Set({4, 1}, kYellowKey);
  EXPECT_EQ(Describe(world), "Goal: do as you like. You see nothing. You carry nothing.");
  world.grid.Set({4, 2}, Door(Colour::kRed, DoorState::kClosed));
  EXPECT_EQ(Describe(world), "Goal: do as you like. You see a closed red door 2 steps ahead. You carry nothing.");
  world.grid.Set({4, 2}, Door(Colour::kRed, DoorState::kOpen));
  EXPECT_EQ(Describe(world),
            "Goal: do as you like. You see an open red door 2 steps ahead, a yellow key 3 steps ahead. You carry "
            "nothing.");
}

std::unique_ptr<Environment> Make(absl::string_view name, uint32_t max_episode_steps = 0) {
  auto made = Family().make(name, {.max_episode_steps = max_episode_steps});
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(made).value();
}

const std::vector<void*> kNoBuffers = {nullptr, nullptr};

TEST(Environment, DescribesItself) {
  const v1::EnvironmentSpec spec = Make("minigrid/DoorKey-8x8")->spec();
  EXPECT_EQ(spec.name(), "minigrid/DoorKey-8x8");
  ASSERT_EQ(spec.observation_size(), 2);
  EXPECT_EQ(spec.observation(0).name(), "image");
  EXPECT_EQ(spec.observation(0).dtype(), v1::DTYPE_UINT8);
  EXPECT_THAT(spec.observation(0).shape(), ElementsAre(7, 7, 3));
  EXPECT_EQ(spec.observation(1).name(), "direction");
  EXPECT_EQ(spec.observation(1).dtype(), v1::DTYPE_INT64);
  EXPECT_THAT(spec.observation(1).shape(), ElementsAre());
  EXPECT_THAT(Choices(spec.action()), ElementsAre("left", "right", "forward", "pickup", "drop", "toggle", "done"));
  EXPECT_THAT(spec.figures(), ElementsAre("doors_opened", "objects_picked"));
  EXPECT_EQ(spec.max_episode_steps(), 640u);
}

TEST(Environment, HasNoTwoTasksOfOneName) {
  const std::vector<std::string> names = Family().names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  for (const std::string& name : names) EXPECT_EQ(Make(name)->spec().name(), name);
}

TEST(Environment, SaysThatATaskDoesNotExist) {
  const auto made = Family().make("minigrid/DoorKey-9x9", {});
  EXPECT_EQ(made.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(made.status().message()), ::testing::HasSubstr("minigrid/DoorKey-9x9"));
}

TEST(Environment, PlaysWithoutBuffersAndTruncatesAtTheLimit) {
  auto environment = Make("minigrid/Empty-5x5", 3);
  EXPECT_EQ(environment->spec().max_episode_steps(), 3u);
  ASSERT_TRUE(environment->Reset(1, kNoBuffers).ok());
  EXPECT_FALSE(environment->Step(0, kNoBuffers)->truncated);
  EXPECT_FALSE(environment->Step(0, kNoBuffers)->truncated);
  const StepResult last = *environment->Step(0, kNoBuffers);
  EXPECT_TRUE(last.truncated && last.package_truncated);
  EXPECT_FALSE(last.terminated || last.package_terminated);
  EXPECT_FALSE(environment->Success());
}

TEST(Environment, CountsAGoalReachedInTheLastStepAsTerminated) {
  auto environment = Make("minigrid/Empty-5x5", 5);
  ASSERT_TRUE(environment->Reset(1, kNoBuffers).ok());
  for (const int action : {2, 2, 1, 2}) EXPECT_FALSE(environment->Step(action, kNoBuffers)->terminated);
  const StepResult last = *environment->Step(2, kNoBuffers);
  EXPECT_TRUE(last.terminated && last.package_terminated && last.package_truncated);
  EXPECT_FALSE(last.truncated);
  EXPECT_EQ(last.reward, static_cast<float>(1 - 0.9));
  EXPECT_EQ(environment->Caption(), "You reach the goal.");
  EXPECT_TRUE(environment->Success());
}

TEST(Environment, ForgetsTheLastEpisodeAtReset) {
  auto environment = Make("minigrid/Empty-5x5");
  ASSERT_TRUE(environment->Reset(1, kNoBuffers).ok());
  for (const int action : {2, 2, 1, 2, 2}) ASSERT_TRUE(environment->Step(action, kNoBuffers).ok());
  ASSERT_TRUE(environment->Success());
  ASSERT_TRUE(environment->Reset(1, kNoBuffers).ok());
  EXPECT_FALSE(environment->Success());
  EXPECT_EQ(environment->Caption(), "");
  EXPECT_THAT(environment->Figures(), ElementsAre(0, 0));
}

TEST(Environment, CountsDoorsOpenedAndThingsPickedUp) {
  auto environment = Make("minigrid/DoorKey-5x5");
  Random random(1);
  int all_doors = 0, all_things = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    int doors = 0, things = 0;
    ASSERT_TRUE(environment->Reset(seed, kNoBuffers).ok());
    for (bool ended = false; !ended;) {
      const StepResult result = *environment->Step(static_cast<int>(random.Below(7)), kNoBuffers);
      const absl::string_view caption = environment->Caption();
      doors += caption == "You unlock the yellow door." || caption == "You open the yellow door.";
      things += caption == "You pick up the yellow key.";
      ASSERT_THAT(environment->Figures(), ElementsAre(doors, things));
      ended = result.terminated || result.truncated;
    }
    all_doors += doors;
    all_things += things;
  }
  EXPECT_GT(all_doors, 0);
  EXPECT_GT(all_things, 0);
}

TEST(Environment, AllocatesNothingWhilePlaying) {
  uint8_t image[7 * 7 * 3];
  int64_t direction;
  void* const buffers[] = {image, &direction};
  auto environment = Make("minigrid/ObstructedMaze-1Dlhb");
  Random random(1);
  int captions = 0;
  (void)EventCaption({Event::Kind::kGoalSquare, kGoal});  // The first caption makes the table of all.
  const int64_t before = allocations;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    (void)environment->Reset(seed, buffers);
    for (bool ended = false; !ended;) {
      const auto result = environment->Step(static_cast<int>(random.Below(7)), buffers);
      captions += !environment->Caption().empty();
      ended = result->terminated || result->truncated;
    }
  }
  EXPECT_EQ(allocations, before);
  EXPECT_GT(captions, 0);
}

}  // namespace
}  // namespace sibyl::minigrid
