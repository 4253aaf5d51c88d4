#pragma once

#include <array>
#include <optional>

#include "environments/minigrid/world.h"

namespace sibyl::minigrid {

// A wall of a room, numbered as the directions.
enum Side { kRight, kDown, kLeft, kUp };

struct Room {
  Position top;
  // By side: where a door would be; nullopt where there is no neighbour.
  std::array<std::optional<Position>, 4> door_at;
  // By side: whether there is a way (a door, or no wall).
  std::array<bool, 4> joined = {};
  // Whether a locked door was put into it from this side.
  bool locked = false;
};

// Square rooms of equal size in rows and columns; neighbours share a wall. (The package's RoomGrid.)
struct Rooms {
  static constexpr int kMax = 3;

  int size = 0;  // Side of a room, with both walls.
  int rows = 0;
  int columns = 0;
  std::array<std::array<Room, kMax>, kMax> room;  // [column][row]
};

// Clears the world's grid, builds the walls, draws where doors would be, and leaves the agent in the middle facing
// right. rows, columns <= Rooms::kMax.
Rooms MakeRooms(World& world, int size, int rows, int columns);

Area AreaOf(const Rooms& rooms, int column, int row);

// Puts a thing into a room, not beside the agent.
void PlaceInRoom(World& world, const Rooms& rooms, int column, int row, Cell thing);

// Puts a closed or locked door into a wall that has none yet; returns where.
Position AddDoor(World& world, Rooms& rooms, int column, int row, Side side, Colour colour, bool locked);

// Takes away the wall between two rooms.
void RemoveWall(World& world, Rooms& rooms, int column, int row, Side side);

// Puts the agent into a room so that it faces no object.
void PlaceAgentInRoom(World& world, const Rooms& rooms, int column, int row);

// Adds closed doors at random until the agent's room has a way to every other one.
void JoinAllRooms(World& world, Rooms& rooms);

}  // namespace sibyl::minigrid
