#include "environments/minigrid/world.h"

#include <algorithm>
#include <cstdlib>

namespace sibyl::minigrid {
namespace {

bool CanPickUp(Cell cell) {
  return cell.type() == Type::kKey || cell.type() == Type::kBall || cell.type() == Type::kBox;
}

bool CanStandOn(Cell cell) {
  switch (cell.type()) {
    case Type::kEmpty:
    case Type::kFloor:
    case Type::kGoal:
    case Type::kLava:
      return true;
    case Type::kDoor:
      return cell.door_state() == DoorState::kOpen;
    default:
      return false;
  }
}

Event Toggle(World& world, Position at, Cell cell) {
  if (cell.type() == Type::kBox) {
    world.grid.Set(at, cell.contents());
    return {Event::Kind::kOpenBox, cell};
  }
  if (cell.type() != Type::kDoor) return {};
  switch (cell.door_state()) {
    case DoorState::kLocked:
      if (world.carrying != Thing(Type::kKey, cell.colour())) return {};
      world.grid.Set(at, Door(cell.colour(), DoorState::kOpen));
      return {Event::Kind::kUnlock, cell};
    case DoorState::kClosed:
      world.grid.Set(at, Door(cell.colour(), DoorState::kOpen));
      return {Event::Kind::kOpen, cell};
    case DoorState::kOpen:
      world.grid.Set(at, Door(cell.colour(), DoorState::kClosed));
      return {Event::Kind::kClose, cell};
  }
  return {};
}

}  // namespace

Outcome Act(World& world, Action action) {
  const Position ahead = Ahead(world);
  const Cell cell = world.grid.Get(ahead);
  Outcome outcome;
  switch (action) {
    case Action::kLeft:
      world.direction = (world.direction + 3) % 4;
      break;
    case Action::kRight:
      world.direction = (world.direction + 1) % 4;
      break;
    case Action::kForward:
      if (!CanStandOn(cell)) break;
      world.agent = ahead;
      if (cell.type() == Type::kGoal) {
        outcome = {{Event::Kind::kGoalSquare, cell}, /*terminated=*/true, /*success=*/true};
      } else if (cell.type() == Type::kLava) {
        outcome = {{Event::Kind::kLava, cell}, /*terminated=*/true, /*success=*/false};
      }
      break;
    case Action::kPickUp:
      if (world.carrying != kEmpty || !CanPickUp(cell)) break;
      world.carrying = cell;
      world.grid.Set(ahead, kEmpty);
      outcome.event = {Event::Kind::kPickUp, cell};
      outcome.success = world.objective == Objective::kPickUp && cell == world.target;
      outcome.terminated = outcome.success;
      break;
    case Action::kDrop:
      if (world.carrying == kEmpty || cell != kEmpty) break;
      world.grid.Set(ahead, world.carrying);
      outcome.event = {Event::Kind::kDrop, world.carrying};
      world.carrying = kEmpty;
      break;
    case Action::kToggle:
      outcome.event = Toggle(world, ahead, cell);
      outcome.success =
          world.objective == Objective::kOpenDoor && world.grid.Get(world.target_door).door_state() == DoorState::kOpen;
      outcome.terminated = outcome.success;
      break;
    case Action::kDone:
      break;
  }
  return outcome;
}

Colour RandomColour(World& world) { return kColoursByName[RandomInt(world, 0, kColours)]; }

Area WholeGrid(const World& world) { return {{0, 0}, world.grid.width(), world.grid.height()}; }

Position PlaceThing(World& world, Cell thing, const Area& area, bool away_from_agent) {
  const int right = std::min(area.top.x + area.width, world.grid.width());
  const int bottom = std::min(area.top.y + area.height, world.grid.height());
  for (;;) {
    Position at;
    at.x = RandomInt(world, area.top.x, right);
    at.y = RandomInt(world, area.top.y, bottom);
    if (world.grid.Get(at) != kEmpty) continue;
    const int distance = std::abs(at.x - world.agent.x) + std::abs(at.y - world.agent.y);
    if (distance < (away_from_agent ? 2 : 1)) continue;
    world.grid.Set(at, thing);
    return at;
  }
}

void PlaceAgent(World& world, const Area& area) {
  world.agent = {-1, -1};
  world.agent = PlaceThing(world, kEmpty, area);
  world.direction = RandomInt(world, 0, 4);
}

}  // namespace sibyl::minigrid
