#pragma once

#include "environments/minigrid/world.h"

namespace sibyl::minigrid {

inline constexpr int kMaxChainedRooms = 6;

// Fills a 25x25 grid with a chain of `rooms` rooms of random size (sides of 4 to `max_size` cells), each joined to the
// next by a door; puts the agent into the first and a goal square into the last. rooms <= kMaxChainedRooms.
void GenerateMultiRoom(World& world, int rooms, int max_size);

}  // namespace sibyl::minigrid
