#include "environments/minigrid/grid.h"

#include <algorithm>
#include <cassert>

namespace sibyl::minigrid {

void Grid::Clear(int width, int height) {
  assert(width >= 3 && width <= kMaxExtent && height >= 3 && height <= kMaxExtent);
  width_ = width;
  height_ = height;
  cells_.fill(kWall);
  for (int y = 0; y < height; ++y) FillRight(0, y, width, kEmpty);
}

void Grid::FillRight(int x, int y, int length, Cell cell) { std::fill_n(&cells_[Index({x, y})], length, cell); }

void Grid::FillDown(int x, int y, int length, Cell cell) {
  for (int i = 0; i < length; ++i) Set({x, y + i}, cell);
}

void Grid::WallAround(Position top, int width, int height) {
  FillRight(top.x, top.y, width, kWall);
  FillRight(top.x, top.y + height - 1, width, kWall);
  FillDown(top.x, top.y, height, kWall);
  FillDown(top.x + width - 1, top.y, height, kWall);
}

}  // namespace sibyl::minigrid
