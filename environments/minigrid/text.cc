#include "environments/minigrid/text.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace sibyl::minigrid {
namespace {

constexpr const char* kColourWords[kColours] = {"red", "green", "blue", "purple", "yellow", "grey"};

const char* ColourWord(Cell cell) { return kColourWords[static_cast<int>(cell.colour())]; }

const char* TypeWord(Type type) {
  switch (type) {
    case Type::kDoor:
      return "door";
    case Type::kKey:
      return "key";
    case Type::kBall:
      return "ball";
    case Type::kBox:
      return "box";
    case Type::kFloor:
      return "floor";
    case Type::kGoal:
      return "goal";
    case Type::kLava:
      return "lava";
    case Type::kWall:
      return "wall";
    case Type::kUnseen:
    case Type::kEmpty:
      break;
  }
  return "nothing";
}

// e.g. "yellow key"
std::string Name(Cell cell) { return absl::StrCat(ColourWord(cell), " ", TypeWord(cell.type())); }

std::string MakeCaption(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kNothing:
      return "";
    case Event::Kind::kPickUp:
      return absl::StrCat("You pick up the ", Name(event.object), ".");
    case Event::Kind::kDrop:
      return absl::StrCat("You drop the ", Name(event.object), ".");
    case Event::Kind::kUnlock:
      return absl::StrCat("You unlock the ", Name(event.object), ".");
    case Event::Kind::kOpen:
      return absl::StrCat("You open the ", Name(event.object), ".");
    case Event::Kind::kClose:
      return absl::StrCat("You close the ", Name(event.object), ".");
    case Event::Kind::kOpenBox: {
      const Cell contents = event.object.contents();
      return absl::StrCat("You open the ", Name(event.object), " and find ",
                          contents == kEmpty ? "nothing" : absl::StrCat("a ", Name(contents)), ".");
    }
    case Event::Kind::kLava:
      return "You step into the lava.";
    case Event::Kind::kGoalSquare:
      return "You reach the goal.";
  }
  return "";
}

// Every caption that there can be, made once, so that a step makes no text.
class CaptionTable {
 public:
  CaptionTable() {
    for (size_t kind = 0; kind < kKinds; ++kind) {
      for (size_t type = 0; type < kTypes; ++type) {
        for (size_t colour = 0; colour < kColours; ++colour) {
          const Cell thing = Thing(static_cast<Type>(type), static_cast<Colour>(colour));
          simple_[kind][type][colour] = MakeCaption({static_cast<Event::Kind>(kind), thing});
          for (size_t box = 0; kind == 0 && box < kColours; ++box) {
            boxes_[box][type][colour] = MakeCaption({Event::Kind::kOpenBox, BoxWith(static_cast<Colour>(box), thing)});
          }
        }
      }
    }
  }

  absl::string_view Find(const Event& event) const {
    const auto colour = static_cast<size_t>(event.object.colour());
    const Cell contents = event.object.contents();
    if (event.kind == Event::Kind::kOpenBox && contents != kEmpty) {
      return boxes_[colour][static_cast<size_t>(contents.type())][static_cast<size_t>(contents.colour())];
    }
    return simple_[static_cast<size_t>(event.kind)][static_cast<size_t>(event.object.type())][colour];
  }

 private:
  static constexpr size_t kKinds = static_cast<size_t>(Event::Kind::kGoalSquare) + 1;
  static constexpr size_t kTypes = static_cast<size_t>(Type::kLava) + 1;
  template <typename T>
  using ByThing = std::array<std::array<T, kColours>, kTypes>;

  std::array<ByThing<std::string>, kKinds> simple_;   // [kind][type][colour]
  std::array<ByThing<std::string>, kColours> boxes_;  // [box's colour][its contents' type][colour]
};

// e.g. "a locked red door", "lava"
std::string WithArticle(Cell cell) {
  switch (cell.type()) {
    case Type::kDoor:
      switch (cell.door_state()) {
        case DoorState::kOpen:
          return absl::StrCat("an open ", Name(cell));
        case DoorState::kClosed:
          return absl::StrCat("a closed ", Name(cell));
        case DoorState::kLocked:
          return absl::StrCat("a locked ", Name(cell));
      }
      return "";
    case Type::kGoal:
      return "the goal";
    case Type::kLava:
      return "lava";
    default:
      return absl::StrCat("a ", Name(cell));
  }
}

std::string Steps(int count) { return absl::StrCat(count, count == 1 ? " step" : " steps"); }

// e.g. "2 steps ahead and 1 step left"
std::string Where(int column, int row) {
  const int ahead = kAgentRow - row;
  const int right = column - kAgentColumn;
  std::string where;
  if (ahead > 0) where = absl::StrCat(Steps(ahead), " ahead");
  if (ahead > 0 && right != 0) where += " and ";
  if (right != 0) where += absl::StrCat(Steps(right < 0 ? -right : right), right < 0 ? " left" : " right");
  return where;
}

}  // namespace

absl::string_view EventCaption(const Event& event) {
  if (event.kind == Event::Kind::kNothing) return {};
  static const auto& table = *new CaptionTable;
  return table.Find(event);
}

std::string Describe(const World& world) {
  View view;
  LookAround(world, view);
  std::string seen;
  for (int row = kAgentRow; row >= 0; --row) {
    for (int column = 0; column < kViewSize; ++column) {
      const Cell cell = view[column][row];
      if (cell == kUnseen || cell == kEmpty || cell == kWall) continue;
      if (row == kAgentRow && column == kAgentColumn) continue;
      absl::StrAppend(&seen, seen.empty() ? "" : ", ", WithArticle(cell), " ", Where(column, row));
    }
  }
  return absl::StrCat("Goal: ", world.mission, ". You see ", seen.empty() ? "nothing" : seen, ". You carry ",
                      world.carrying == kEmpty ? "nothing" : WithArticle(world.carrying), ".");
}

}  // namespace sibyl::minigrid
