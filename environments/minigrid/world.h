#pragma once

#include "absl/strings/string_view.h"
#include "environments/minigrid/grid.h"
#include "environments/minigrid/numpy_random.h"

namespace sibyl::minigrid {

// What ends the episode with a reward, besides stepping onto a goal square.
enum class Objective { kGoalSquare, kPickUp, kOpenDoor };

// Everything that one episode is made of. Plain data: a level generator fills it, Act changes it.
struct World {
  NumpyRandom random{0};
  Grid grid;
  Position agent;
  int direction = 0;  // Index into kForward.
  Cell carrying = kEmpty;
  bool see_through_walls = false;

  // What is to be done, in the package's words; lives as long as the process.
  absl::string_view mission;
  Objective objective = Objective::kGoalSquare;
  Cell target = kEmpty;  // kPickUp: what to pick up; no level has two things that look like it.
  Position target_door;  // kOpenDoor: which door to open.
};

enum class Action { kLeft, kRight, kForward, kPickUp, kDrop, kToggle, kDone };

// What a step changed. `object` is the thing it happened to, as it was before.
struct Event {
  enum class Kind { kNothing, kPickUp, kDrop, kUnlock, kOpen, kClose, kOpenBox, kLava, kGoalSquare };
  Kind kind = Kind::kNothing;
  Cell object = kEmpty;
};

struct Outcome {
  Event event;
  bool terminated = false;
  bool success = false;  // Terminated with a reward.
};

// Plays one action. Draws no random numbers.
Outcome Act(World& world, Action action);

// Uniform in [low, high).
inline int RandomInt(World& world, int low, int high) { return static_cast<int>(world.random.Integers(low, high)); }

Colour RandomColour(World& world);

// The colours in the order in which the package draws them: by name.
inline constexpr Colour kColoursByName[kColours] = {Colour::kBlue,   Colour::kGreen, Colour::kGrey,
                                                    Colour::kPurple, Colour::kRed,   Colour::kYellow};

// A part of the grid from which a position is drawn.
struct Area {
  Position top;
  int width = 0;
  int height = 0;
};
Area WholeGrid(const World& world);

// Puts `thing` into a random empty cell of the area where the agent is not, and, with `away_from_agent`, not beside the
// agent either. The area must have such a cell.
Position PlaceThing(World& world, Cell thing, const Area& area, bool away_from_agent = false);

// Puts the agent into a random empty cell of the area, facing a random direction.
void PlaceAgent(World& world, const Area& area);

// The position in front of the agent.
inline Position Ahead(const World& world) {
  const Position forward = kForward[world.direction];
  return {world.agent.x + forward.x, world.agent.y + forward.y};
}

}  // namespace sibyl::minigrid
