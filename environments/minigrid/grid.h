#pragma once

#include <array>
#include <cstdint>

namespace sibyl::minigrid {

// The package's numbers, as the view shows them.
enum class Type : uint8_t { kUnseen, kEmpty, kWall, kFloor, kDoor, kKey, kBall, kBox, kGoal, kLava };
enum class Colour : uint8_t { kRed, kGreen, kBlue, kPurple, kYellow, kGrey };
enum class DoorState : uint8_t { kOpen, kClosed, kLocked };

inline constexpr int kColours = 6;

// What stands in a cell, or is carried; kEmpty: nothing.
// From the lowest bit: 8 bits type, 8 colour, 8 door state (three bytes of the view, in its order), then 4 bits type
// and 3 bits colour of what a box holds (0: nothing), 1 bit set where one cannot see through.
struct Cell {
  uint32_t bits = 0;

  constexpr Type type() const { return static_cast<Type>(bits & 0xff); }
  constexpr Colour colour() const { return static_cast<Colour>(bits >> 8 & 0xff); }
  constexpr DoorState door_state() const { return static_cast<DoorState>(bits >> 16 & 0xff); }
  constexpr bool opaque() const { return bits >> 31 != 0; }
  // What a box holds; kEmpty when nothing.
  constexpr Cell contents() const;
  friend constexpr bool operator==(Cell, Cell) = default;
};

inline constexpr Cell kUnseen = {static_cast<uint32_t>(Type::kUnseen)};
inline constexpr Cell kEmpty = {static_cast<uint32_t>(Type::kEmpty)};

constexpr Cell Thing(Type type, Colour colour) {
  return {static_cast<uint32_t>(type) | static_cast<uint32_t>(colour) << 8};
}

constexpr Cell Door(Colour colour, DoorState state) {
  return {Thing(Type::kDoor, colour).bits | static_cast<uint32_t>(state) << 16 |
          (state == DoorState::kOpen ? 0 : uint32_t{1} << 31)};
}

// `contents` is a key, a ball or an empty box.
constexpr Cell BoxWith(Colour colour, Cell contents) {
  return {Thing(Type::kBox, colour).bits | static_cast<uint32_t>(contents.type()) << 24 |
          static_cast<uint32_t>(contents.colour()) << 28};
}

constexpr Cell Cell::contents() const {
  const uint32_t type = bits >> 24 & 0xf;
  return type == 0 ? kEmpty : Thing(static_cast<Type>(type), static_cast<Colour>(bits >> 28 & 7));
}

inline constexpr Cell kWall = {Thing(Type::kWall, Colour::kGrey).bits | uint32_t{1} << 31};
inline constexpr Cell kGoal = Thing(Type::kGoal, Colour::kGreen);
inline constexpr Cell kLava = Thing(Type::kLava, Colour::kRed);

struct Position {
  int x = 0;  // Grows to the right.
  int y = 0;  // Grows downwards.
  friend constexpr bool operator==(Position, Position) = default;
};

// The agent's direction d faces kForward[d]; kForward[(d + 1) % 4] is to its right.
inline constexpr Position kForward[4] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}};

// Cells in a fixed block of memory with a margin of walls, so that a view needs no bounds checks: a view taken from
// inside the grid reaches at most kMargin cells beyond it, and shows walls there.
class Grid {
 public:
  static constexpr int kMaxExtent = 25;
  static constexpr int kMargin = 6;
  static constexpr int kStride = kMaxExtent + 2 * kMargin;

  // Empties the grid. 3 <= width, height <= kMaxExtent.
  void Clear(int width, int height);

  int width() const { return width_; }
  int height() const { return height_; }

  Cell Get(Position at) const { return *At(at); }
  void Set(Position at, Cell cell) { cells_[Index(at)] = cell; }

  // The cell at `at`; one to the right is 1 further, one down kStride further.
  const Cell* At(Position at) const { return &cells_[Index(at)]; }

  // Fill `length` cells from (x, y) to the right, or downwards, with `cell`.
  void FillRight(int x, int y, int length, Cell cell);
  void FillDown(int x, int y, int length, Cell cell);
  // Walls along the inside edge of a rectangle.
  void WallAround(Position top, int width, int height);

 private:
  static int Index(Position at) { return (at.y + kMargin) * kStride + at.x + kMargin; }

  int width_ = 0;
  int height_ = 0;
  std::array<Cell, kStride * kStride> cells_;
};

}  // namespace sibyl::minigrid
