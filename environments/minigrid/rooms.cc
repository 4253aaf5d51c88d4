#include "environments/minigrid/rooms.h"

#include <cassert>

namespace sibyl::minigrid {
namespace {

constexpr Side Opposite(int side) { return static_cast<Side>((side + 2) % 4); }

Room& Neighbour(Rooms& rooms, int column, int row, int side) {
  return rooms.room[column + kForward[side].x][row + kForward[side].y];
}

void Visit(const Rooms& rooms, int column, int row, std::array<std::array<bool, Rooms::kMax>, Rooms::kMax>& seen,
           int& count) {
  if (seen[column][row]) return;
  seen[column][row] = true;
  ++count;
  for (int side = 0; side < 4; ++side) {
    if (rooms.room[column][row].joined[side]) {
      Visit(rooms, column + kForward[side].x, row + kForward[side].y, seen, count);
    }
  }
}

int ReachableRooms(const Rooms& rooms, Position agent) {
  std::array<std::array<bool, Rooms::kMax>, Rooms::kMax> seen = {};
  int count = 0;
  Visit(rooms, agent.x / (rooms.size - 1), agent.y / (rooms.size - 1), seen, count);
  return count;
}

}  // namespace

Rooms MakeRooms(World& world, int size, int rows, int columns) {
  assert(rows <= Rooms::kMax && columns <= Rooms::kMax);
  Rooms rooms;
  rooms.size = size;
  rooms.rows = rows;
  rooms.columns = columns;
  const int step = size - 1;
  world.grid.Clear(step * columns + 1, step * rows + 1);
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      rooms.room[column][row].top = {column * step, row * step};
      world.grid.WallAround(rooms.room[column][row].top, size, size);
    }
  }
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      Room& room = rooms.room[column][row];
      const Position first = {room.top.x + 1, room.top.y + 1};
      const Position last = {room.top.x + step, room.top.y + step};
      if (column + 1 < columns) {
        room.door_at[kRight] = {last.x, RandomInt(world, first.y, last.y)};
        rooms.room[column + 1][row].door_at[kLeft] = room.door_at[kRight];
      }
      if (row + 1 < rows) {
        room.door_at[kDown] = {RandomInt(world, first.x, last.x), last.y};
        rooms.room[column][row + 1].door_at[kUp] = room.door_at[kDown];
      }
    }
  }
  world.agent = {columns / 2 * step + size / 2, rows / 2 * step + size / 2};
  world.direction = kRight;
  return rooms;
}

Area AreaOf(const Rooms& rooms, int column, int row) { return {rooms.room[column][row].top, rooms.size, rooms.size}; }

void PlaceInRoom(World& world, const Rooms& rooms, int column, int row, Cell thing) {
  PlaceThing(world, thing, AreaOf(rooms, column, row), /*away_from_agent=*/true);
}

Position AddDoor(World& world, Rooms& rooms, int column, int row, Side side, Colour colour, bool locked) {
  Room& room = rooms.room[column][row];
  assert(room.door_at[side].has_value() && !room.joined[side]);
  const Position at = *room.door_at[side];
  world.grid.Set(at, Door(colour, locked ? DoorState::kLocked : DoorState::kClosed));
  room.locked = locked;
  room.joined[side] = true;
  Neighbour(rooms, column, row, side).joined[Opposite(side)] = true;
  return at;
}

void RemoveWall(World& world, Rooms& rooms, int column, int row, Side side) {
  Room& room = rooms.room[column][row];
  const int last = rooms.size - 1;
  const int x = room.top.x, y = room.top.y;
  switch (side) {
    case kRight:
      world.grid.FillDown(x + last, y + 1, last - 1, kEmpty);
      break;
    case kDown:
      world.grid.FillRight(x + 1, y + last, last - 1, kEmpty);
      break;
    case kLeft:
      world.grid.FillDown(x, y + 1, last - 1, kEmpty);
      break;
    case kUp:
      world.grid.FillRight(x + 1, y, last - 1, kEmpty);
      break;
  }
  room.joined[side] = true;
  Neighbour(rooms, column, row, side).joined[Opposite(side)] = true;
}

void PlaceAgentInRoom(World& world, const Rooms& rooms, int column, int row) {
  for (;;) {
    PlaceAgent(world, AreaOf(rooms, column, row));
    const Cell ahead = world.grid.Get(Ahead(world));
    if (ahead == kEmpty || ahead == kWall) return;
  }
}

void JoinAllRooms(World& world, Rooms& rooms) {
  while (ReachableRooms(rooms, world.agent) < rooms.rows * rooms.columns) {
    const int column = RandomInt(world, 0, rooms.columns);
    const int row = RandomInt(world, 0, rooms.rows);
    const Side side = static_cast<Side>(RandomInt(world, 0, 4));
    const Room& room = rooms.room[column][row];
    if (!room.door_at[side].has_value() || room.joined[side]) continue;
    if (room.locked || Neighbour(rooms, column, row, side).locked) continue;
    AddDoor(world, rooms, column, row, side, RandomColour(world), /*locked=*/false);
  }
}

}  // namespace sibyl::minigrid
