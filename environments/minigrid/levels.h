#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "environments/minigrid/world.h"

namespace sibyl::minigrid {

// What tells the sizes of a level apart; each generator reads what concerns it.
struct LevelSize {
  int size = 0;           // Side of the grid, or of a room, in cells.
  int rows = 0;           // KeyCorridor: rows of rooms.
  int rooms = 0;          // MultiRoom.
  int crossings = 0;      // Crossings: walls or rivers of lava.
  bool lava = false;      // Crossings: lava instead of walls.
  bool anywhere = false;  // Empty: start at a random position.
  bool hidden = false;    // ObstructedMaze: the key is in a box.
  bool blocked = false;   // ObstructedMaze: a ball stands before the door.
};

struct Level {
  absl::string_view name;  // e.g. "minigrid/DoorKey-8x8"
  void (*generate)(World& world, const LevelSize& size);
  LevelSize size;
  // Steps after which the package truncates.
  uint32_t max_steps;
};

// All levels, sorted by family.
absl::Span<const Level> Levels();

// nullptr: there is none of that name.
const Level* FindLevel(absl::string_view name);

// Makes the episode that the package makes of `seed`, whatever `world` held before.
void Generate(const Level& level, uint64_t seed, World& world);

}  // namespace sibyl::minigrid
