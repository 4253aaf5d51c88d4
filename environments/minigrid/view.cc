#include "environments/minigrid/view.h"

#include <bit>
#include <cstring>

namespace sibyl::minigrid {
namespace {

// Bits of a row of the view: bit i is column i.
using RowBits = uint32_t;
constexpr RowBits kAllColumns = (1 << kViewSize) - 1;

// Sight runs along a row in one direction, as long as it is free. (Kogge-Stone: three doublings reach 7 columns.)
RowBits SpreadRight(RowBits seen, RowBits clear) {
  RowBits path = clear << 1;
  seen |= path & (seen << 1);
  path &= path << 1;
  seen |= path & (seen << 2);
  path &= path << 2;
  seen |= path & (seen << 4);
  return seen & kAllColumns;
}

RowBits SpreadLeft(RowBits seen, RowBits clear) {
  RowBits path = clear >> 1;
  seen |= path & (seen >> 1);
  path &= path >> 1;
  seen |= path & (seen >> 2);
  path &= path >> 2;
  seen |= path & (seen >> 4);
  return seen;
}

// Given what is known to be seen of a row, and which of its cells can be seen through: all that is seen of it, and in
// `next` what is thereby seen of the row behind. The package passes over the row from left to right, where the last
// column passes nothing on, then from right to left, where the first column passes nothing on.
RowBits SeeRow(RowBits seen, RowBits clear, RowBits& next) {
  seen = SpreadRight(seen, clear);
  const RowBits rightwards = seen & clear & (kAllColumns >> 1);
  seen = SpreadLeft(seen, clear);
  const RowBits leftwards = seen & clear & (kAllColumns & ~RowBits{1});
  next = rightwards | rightwards << 1 | leftwards | leftwards >> 1;
  return seen;
}

}  // namespace

void LookAround(const World& world, View& view) {
  const Position forward = kForward[world.direction];
  const Position right = kForward[(world.direction + 1) % 4];
  const int forward_step = forward.y * Grid::kStride + forward.x;
  const int right_step = right.y * Grid::kStride + right.x;
  const Cell* row_start = world.grid.At(world.agent) - kAgentColumn * right_step;
  RowBits seen = 1 << kAgentColumn;
  for (int row = kAgentRow; row >= 0; --row, row_start += forward_step) {
    Cell cells[kViewSize];
    RowBits opaque = 0;
    for (int column = 0; column < kViewSize; ++column) {
      cells[column] = row_start[column * right_step];
      opaque |= cells[column].bits >> 31 << column;
    }
    RowBits next = 0;
    const RowBits shown = world.see_through_walls ? kAllColumns : SeeRow(seen, ~opaque, next);
    seen = next;
    for (int column = 0; column < kViewSize; ++column) {
      view[column][row] = {cells[column].bits & -(shown >> column & 1)};
    }
  }
  view[kAgentColumn][kAgentRow] = world.carrying;
}

void WriteImage(const View& view, uint8_t* image) {
  // The three lowest bytes of a cell are the image's; each cell's fourth is overwritten by the next cell.
  static_assert(std::endian::native == std::endian::little);
  uint8_t padded[kImageBytes + 1];
  uint8_t* out = padded;
  for (const auto& column : view) {
    for (const Cell cell : column) {
      std::memcpy(out, &cell.bits, sizeof cell.bits);
      out += 3;
    }
  }
  std::memcpy(image, padded, kImageBytes);
}

}  // namespace sibyl::minigrid
