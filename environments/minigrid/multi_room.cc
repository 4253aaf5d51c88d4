#include "environments/minigrid/multi_room.h"

#include <array>
#include <cassert>

#include "environments/minigrid/rooms.h"

namespace sibyl::minigrid {
namespace {

constexpr int kExtent = 25;
constexpr int kMinSize = 4;

struct ChainedRoom {
  Area area;
  Position entry;  // The door from the room before; for the first room, its corner.
};

struct Chain {
  std::array<ChainedRoom, kMaxChainedRooms> room;
  int length = 0;
};

// Where a room entered by `entry`, in its wall on `side`, would lie.
Position DrawTop(World& world, Position entry, Side side, int width, int height) {
  Position top = entry;
  switch (side) {
    case kRight:
      top.x = entry.x - width + 1;
      top.y = RandomInt(world, entry.y - height + 2, entry.y);
      break;
    case kDown:
      top.x = RandomInt(world, entry.x - width + 2, entry.x);
      top.y = entry.y - height + 1;
      break;
    case kLeft:
      top.y = RandomInt(world, entry.y - height + 2, entry.y);
      break;
    case kUp:
      top.x = RandomInt(world, entry.x - width + 2, entry.x);
      break;
  }
  return top;
}

// Not symmetric, just as the package has it.
bool Overlaps(const Area& area, const Area& other) {
  return area.top.x + area.width >= other.top.x && other.top.x + other.width > area.top.x &&
         area.top.y + area.height >= other.top.y && other.top.y + other.height > area.top.y;
}

bool Fits(const Chain& chain, const Area& area) {
  if (area.top.x < 0 || area.top.y < 0) return false;
  if (area.top.x + area.width > kExtent || area.top.y + area.height >= kExtent) return false;
  // The room before shares a wall with it.
  for (int i = 0; i + 1 < chain.length; ++i) {
    if (Overlaps(area, chain.room[i].area)) return false;
  }
  return true;
}

Position DrawExit(World& world, const Area& area, Side side) {
  const int last_x = area.top.x + area.width - 1, last_y = area.top.y + area.height - 1;
  switch (side) {
    case kRight:
      return {last_x, area.top.y + RandomInt(world, 1, area.height - 1)};
    case kDown:
      return {area.top.x + RandomInt(world, 1, area.width - 1), last_y};
    case kLeft:
      return {area.top.x, area.top.y + RandomInt(world, 1, area.height - 1)};
    case kUp:
      return {area.top.x + RandomInt(world, 1, area.width - 1), area.top.y};
  }
  return {};
}

// Appends a room entered by `entry`, and as many of the `left - 1` rooms after it as find a place; a room whose
// successor finds none after some tries stays the last. False: there is no place for this one.
bool AppendRooms(World& world, int left, int max_size, Side entry_side, Position entry, Chain& chain) {
  Area area;
  area.width = RandomInt(world, kMinSize, max_size + 1);
  area.height = RandomInt(world, kMinSize, max_size + 1);
  area.top = chain.length == 0 ? entry : DrawTop(world, entry, entry_side, area.width, area.height);
  if (!Fits(chain, area)) return false;
  chain.room[chain.length++] = {area, entry};
  if (left == 1) return true;
  constexpr int kTries = 8;
  for (int i = 0; i < kTries; ++i) {
    // One of the three other walls.
    const int drawn = RandomInt(world, 0, 3);
    const int exit_side = drawn < entry_side ? drawn : drawn + 1;
    const Position exit = DrawExit(world, area, static_cast<Side>(exit_side));
    if (AppendRooms(world, left - 1, max_size, static_cast<Side>((exit_side + 2) % 4), exit, chain)) break;
  }
  return true;
}

}  // namespace

void GenerateMultiRoom(World& world, int rooms, int max_size) {
  assert(rooms <= kMaxChainedRooms);
  // The package draws the number of rooms from [rooms, rooms], which takes no random number.
  Chain chain;
  while (chain.length < rooms) {
    Chain attempt;
    Position entry;
    entry.x = RandomInt(world, 0, kExtent - 2);
    entry.y = RandomInt(world, 0, kExtent - 2);
    AppendRooms(world, rooms, max_size, kLeft, entry, attempt);
    if (attempt.length > chain.length) chain = attempt;
  }

  world.grid.Clear(kExtent, kExtent);
  int last_colour = kColours;  // Index into kColoursByName; none yet.
  for (int i = 0; i < chain.length; ++i) {
    const Area& area = chain.room[i].area;
    world.grid.WallAround(area.top, area.width, area.height);
    if (i == 0) continue;
    // A colour other than the last door's.
    const int drawn = RandomInt(world, 0, i == 1 ? kColours : kColours - 1);
    last_colour = drawn < last_colour ? drawn : drawn + 1;
    world.grid.Set(chain.room[i].entry, Door(kColoursByName[last_colour], DoorState::kClosed));
  }
  PlaceAgent(world, chain.room[0].area);
  PlaceThing(world, kGoal, chain.room[chain.length - 1].area);
}

}  // namespace sibyl::minigrid
