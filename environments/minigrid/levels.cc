#include "environments/minigrid/levels.h"

#include <algorithm>
#include <array>

#include "environments/minigrid/multi_room.h"
#include "environments/minigrid/rooms.h"

namespace sibyl::minigrid {
namespace {

absl::string_view PickUpMission(Cell target) {
  static constexpr absl::string_view kMissions[3][kColours] = {
      {"pick up the red key", "pick up the green key", "pick up the blue key", "pick up the purple key",
       "pick up the yellow key", "pick up the grey key"},
      {"pick up the red ball", "pick up the green ball", "pick up the blue ball", "pick up the purple ball",
       "pick up the yellow ball", "pick up the grey ball"},
      {"pick up the red box", "pick up the green box", "pick up the blue box", "pick up the purple box",
       "pick up the yellow box", "pick up the grey box"},
  };
  return kMissions[static_cast<int>(target.type()) - static_cast<int>(Type::kKey)][static_cast<int>(target.colour())];
}

void AimToPickUp(World& world, Cell target) {
  world.objective = Objective::kPickUp;
  world.target = target;
  world.mission = PickUpMission(target);
}

// A grid with walls around it and the goal in the far corner.
void WalledGridWithGoal(World& world, int side) {
  world.grid.Clear(side, side);
  world.grid.WallAround({0, 0}, side, side);
  world.grid.Set({side - 2, side - 2}, kGoal);
}

void Empty(World& world, const LevelSize& level) {
  WalledGridWithGoal(world, level.size);
  world.see_through_walls = true;
  world.mission = "get to the green goal square";
  if (level.anywhere) {
    PlaceAgent(world, WholeGrid(world));
  } else {
    world.agent = {1, 1};
  }
}

void FourRooms(World& world, const LevelSize& level) {
  const int side = level.size;
  world.grid.Clear(side, side);
  world.grid.WallAround({0, 0}, side, side);
  world.mission = "reach the goal";
  const int room = side / 2;
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) {
      const int left = column * room, top = row * room;
      const int right = left + room, bottom = top + room;
      if (column == 0) {
        world.grid.FillDown(right, top, room, kWall);
        world.grid.Set({right, RandomInt(world, top + 1, bottom)}, kEmpty);
      }
      if (row == 0) {
        world.grid.FillRight(left, bottom, room, kWall);
        world.grid.Set({RandomInt(world, left + 1, right), bottom}, kEmpty);
      }
    }
  }
  PlaceAgent(world, WholeGrid(world));
  PlaceThing(world, kGoal, WholeGrid(world));
}

void DoorKey(World& world, const LevelSize& level) {
  const int side = level.size;
  WalledGridWithGoal(world, side);
  world.mission = "use the key to open the door and then get to the goal";
  const int wall = RandomInt(world, 2, side - 2);
  world.grid.FillDown(wall, 0, side, kWall);
  const Area before_the_wall = {{0, 0}, wall, side};
  PlaceAgent(world, before_the_wall);
  world.grid.Set({wall, RandomInt(world, 1, side - 2)}, Door(Colour::kYellow, DoorState::kLocked));
  PlaceThing(world, Thing(Type::kKey, Colour::kYellow), before_the_wall);
}

// Walls or rivers of lava across a grid, with openings along one path from the start to the goal.
void Crossing(World& world, const LevelSize& level) {
  const int side = level.size;
  WalledGridWithGoal(world, side);
  world.agent = {1, 1};
  world.mission = level.lava ? "avoid the lava and get to the green goal square"
                             : "find the opening and get to the green goal square";

  // Where obstacles may run, downwards (at x) or to the right (at y); a random few of them are kept.
  struct River {
    bool down = false;
    int at = 0;
  };
  std::array<River, Grid::kMaxExtent> rivers;
  int count = 0;
  for (const bool down : {true, false}) {
    for (int at = 2; at < side - 2; at += 2) rivers[count++] = {down, at};
  }
  world.random.Shuffle(absl::MakeSpan(rivers.data(), count));
  count = std::min(count, level.crossings);

  // Borders of the regions between the obstacles, outer walls included; index 0: x of those that run down.
  std::array<std::array<int, Grid::kMaxExtent>, 2> borders;
  int borders_size[2] = {1, 1};
  borders[0][0] = borders[1][0] = 0;
  for (int i = 0; i < count; ++i) {
    const int axis = rivers[i].down ? 0 : 1;
    borders[axis][borders_size[axis]++] = rivers[i].at;
    const Cell obstacle = level.lava ? kLava : kWall;
    if (rivers[i].down) {
      world.grid.FillDown(rivers[i].at, 1, side - 2, obstacle);
    } else {
      world.grid.FillRight(1, rivers[i].at, side - 2, obstacle);
    }
  }
  for (const int axis : {0, 1}) {
    std::sort(borders[axis].begin(), borders[axis].begin() + borders_size[axis]);
    borders[axis][borders_size[axis]++] = side - 1;
  }

  // The path crosses each obstacle once; in a random order of those that it crosses going right and going down.
  std::array<bool, Grid::kMaxExtent> goes_right;
  for (int i = 0; i < count; ++i) goes_right[i] = i < borders_size[0] - 2;
  world.random.Shuffle(absl::MakeSpan(goes_right.data(), count));
  const auto between = [&world](const std::array<int, Grid::kMaxExtent>& border, int region) {
    const int first = border[region] + 1;
    return first + RandomInt(world, 0, border[region + 1] - first);
  };
  int column = 0, row = 0;
  for (int i = 0; i < count; ++i) {
    if (goes_right[i]) {
      world.grid.Set({borders[0][column + 1], between(borders[1], row)}, kEmpty);
      ++column;
    } else {
      world.grid.Set({between(borders[0], column), borders[1][row + 1]}, kEmpty);
      ++row;
    }
  }
}

void Unlock(World& world, const LevelSize& level) {
  Rooms rooms = MakeRooms(world, level.size, 1, 2);
  const Colour colour = RandomColour(world);
  world.target_door = AddDoor(world, rooms, 0, 0, kRight, colour, /*locked=*/true);
  PlaceInRoom(world, rooms, 0, 0, Thing(Type::kKey, colour));
  PlaceAgentInRoom(world, rooms, 0, 0);
  world.objective = Objective::kOpenDoor;
  world.mission = "open the door";
}

void UnlockPickUp(World& world, const LevelSize& level) {
  Rooms rooms = MakeRooms(world, level.size, 1, 2);
  const Cell box = Thing(Type::kBox, RandomColour(world));
  PlaceInRoom(world, rooms, 1, 0, box);
  const Colour colour = RandomColour(world);
  const Position door = AddDoor(world, rooms, 0, 0, kRight, colour, /*locked=*/true);
  if (level.blocked) world.grid.Set({door.x - 1, door.y}, Thing(Type::kBall, RandomColour(world)));
  PlaceInRoom(world, rooms, 0, 0, Thing(Type::kKey, colour));
  PlaceAgentInRoom(world, rooms, 0, 0);
  AimToPickUp(world, box);
}

void KeyCorridor(World& world, const LevelSize& level) {
  Rooms rooms = MakeRooms(world, level.size, level.rows, 3);
  for (int row = 1; row < level.rows; ++row) RemoveWall(world, rooms, 1, row, kUp);
  const int ball_row = RandomInt(world, 0, level.rows);
  const Colour colour = RandomColour(world);
  AddDoor(world, rooms, 2, ball_row, kLeft, colour, /*locked=*/true);
  const Cell ball = Thing(Type::kBall, RandomColour(world));
  PlaceInRoom(world, rooms, 2, ball_row, ball);
  PlaceInRoom(world, rooms, 0, RandomInt(world, 0, level.rows), Thing(Type::kKey, colour));
  PlaceAgentInRoom(world, rooms, 1, level.rows / 2);
  JoinAllRooms(world, rooms);
  AimToPickUp(world, ball);
}

// ObstructedMaze with one locked door.
void ObstructedMaze(World& world, const LevelSize& level) {
  Rooms rooms = MakeRooms(world, level.size, 1, 2);
  // The package draws an order of all colours, without replacement, and uses as many as there are doors: here one.
  std::array<Colour, kColours> left;
  std::copy_n(kColoursByName, kColours, left.begin());
  std::array<Colour, kColours> order;
  for (int i = 0; i < kColours; ++i) {
    const int drawn = RandomInt(world, 0, kColours - i);
    order[i] = left[drawn];
    std::copy(left.begin() + drawn + 1, left.end(), left.begin() + drawn);
  }
  const Position door = AddDoor(world, rooms, 0, 0, kRight, order[0], /*locked=*/true);
  if (level.blocked) world.grid.Set({door.x - 1, door.y}, Thing(Type::kBall, Colour::kGreen));
  const Cell key = Thing(Type::kKey, order[0]);
  PlaceInRoom(world, rooms, 0, 0, level.hidden ? BoxWith(Colour::kGrey, key) : key);
  const Cell ball = Thing(Type::kBall, Colour::kBlue);
  PlaceInRoom(world, rooms, 1, 0, ball);
  PlaceAgentInRoom(world, rooms, 0, 0);
  AimToPickUp(world, ball);
}

void MultiRoom(World& world, const LevelSize& level) {
  GenerateMultiRoom(world, level.rooms, level.size);
  world.mission = "traverse the rooms to get to the goal";
}

constexpr Level kLevels[] = {
    {"minigrid/BlockedUnlockPickup", UnlockPickUp, {.size = 6, .blocked = true}, 16 * 6 * 6},
    {"minigrid/DoorKey-5x5", DoorKey, {.size = 5}, 10 * 5 * 5},
    {"minigrid/DoorKey-6x6", DoorKey, {.size = 6}, 10 * 6 * 6},
    {"minigrid/DoorKey-8x8", DoorKey, {.size = 8}, 10 * 8 * 8},
    {"minigrid/DoorKey-16x16", DoorKey, {.size = 16}, 10 * 16 * 16},
    {"minigrid/Empty-5x5", Empty, {.size = 5}, 4 * 5 * 5},
    {"minigrid/Empty-Random-5x5", Empty, {.size = 5, .anywhere = true}, 4 * 5 * 5},
    {"minigrid/Empty-6x6", Empty, {.size = 6}, 4 * 6 * 6},
    {"minigrid/Empty-Random-6x6", Empty, {.size = 6, .anywhere = true}, 4 * 6 * 6},
    {"minigrid/Empty-8x8", Empty, {.size = 8}, 4 * 8 * 8},
    {"minigrid/Empty-16x16", Empty, {.size = 16}, 4 * 16 * 16},
    {"minigrid/FourRooms", FourRooms, {.size = 19}, 100},
    {"minigrid/KeyCorridorS3R1", KeyCorridor, {.size = 3, .rows = 1}, 30 * 3 * 3},
    {"minigrid/KeyCorridorS3R2", KeyCorridor, {.size = 3, .rows = 2}, 30 * 3 * 3},
    {"minigrid/KeyCorridorS3R3", KeyCorridor, {.size = 3, .rows = 3}, 30 * 3 * 3},
    {"minigrid/KeyCorridorS4R3", KeyCorridor, {.size = 4, .rows = 3}, 30 * 4 * 4},
    {"minigrid/KeyCorridorS5R3", KeyCorridor, {.size = 5, .rows = 3}, 30 * 5 * 5},
    {"minigrid/KeyCorridorS6R3", KeyCorridor, {.size = 6, .rows = 3}, 30 * 6 * 6},
    {"minigrid/LavaCrossingS9N1", Crossing, {.size = 9, .crossings = 1, .lava = true}, 4 * 9 * 9},
    {"minigrid/LavaCrossingS9N2", Crossing, {.size = 9, .crossings = 2, .lava = true}, 4 * 9 * 9},
    {"minigrid/LavaCrossingS9N3", Crossing, {.size = 9, .crossings = 3, .lava = true}, 4 * 9 * 9},
    {"minigrid/LavaCrossingS11N5", Crossing, {.size = 11, .crossings = 5, .lava = true}, 4 * 11 * 11},
    {"minigrid/MultiRoom-N2-S4", MultiRoom, {.size = 4, .rooms = 2}, 20 * 2},
    // Farama registered this one with six rooms and kept it; -v1 has the four that its name says.
    {"minigrid/MultiRoom-N4-S5", MultiRoom, {.size = 5, .rooms = 6}, 20 * 6},
    {"minigrid/MultiRoom-N4-S5-v1", MultiRoom, {.size = 5, .rooms = 4}, 20 * 4},
    {"minigrid/MultiRoom-N6", MultiRoom, {.size = 10, .rooms = 6}, 20 * 6},
    {"minigrid/ObstructedMaze-1Dl", ObstructedMaze, {.size = 6}, 4 * 2 * 6 * 6},
    {"minigrid/ObstructedMaze-1Dlh", ObstructedMaze, {.size = 6, .hidden = true}, 4 * 2 * 6 * 6},
    {"minigrid/ObstructedMaze-1Dlhb", ObstructedMaze, {.size = 6, .hidden = true, .blocked = true}, 4 * 2 * 6 * 6},
    {"minigrid/SimpleCrossingS9N1", Crossing, {.size = 9, .crossings = 1}, 4 * 9 * 9},
    {"minigrid/SimpleCrossingS9N2", Crossing, {.size = 9, .crossings = 2}, 4 * 9 * 9},
    {"minigrid/SimpleCrossingS9N3", Crossing, {.size = 9, .crossings = 3}, 4 * 9 * 9},
    {"minigrid/SimpleCrossingS11N5", Crossing, {.size = 11, .crossings = 5}, 4 * 11 * 11},
    {"minigrid/Unlock", Unlock, {.size = 6}, 8 * 6 * 6},
    {"minigrid/UnlockPickup", UnlockPickUp, {.size = 6}, 8 * 6 * 6},
};

}  // namespace

absl::Span<const Level> Levels() { return kLevels; }

const Level* FindLevel(absl::string_view name) {
  for (const Level& level : kLevels) {
    if (level.name == name) return &level;
  }
  return nullptr;
}

void Generate(const Level& level, uint64_t seed, World& world) {
  world.random = NumpyRandom(seed);
  world.agent = {-1, -1};
  world.direction = kRight;
  world.carrying = kEmpty;
  world.see_through_walls = false;
  world.objective = Objective::kGoalSquare;
  world.target = kEmpty;
  level.generate(world, level.size);
}

}  // namespace sibyl::minigrid
