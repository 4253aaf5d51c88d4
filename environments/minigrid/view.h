#pragma once

#include <array>
#include <cstdint>

#include "environments/minigrid/world.h"

namespace sibyl::minigrid {

inline constexpr int kViewSize = 7;

// What the agent sees: [column][row], kUnseen where something is in the way. Columns run from its left to its right
// with the agent in column 3; rows come nearer, from 6 cells ahead in row 0 to the agent's own in row 6, where what it
// carries is shown.
using View = std::array<std::array<Cell, kViewSize>, kViewSize>;
inline constexpr int kAgentColumn = kViewSize / 2;
inline constexpr int kAgentRow = kViewSize - 1;

void LookAround(const World& world, View& view);

inline constexpr int kImageBytes = kViewSize * kViewSize * 3;

// The package's `image`: uint8 [column, row, (type, colour, state)].
void WriteImage(const View& view, uint8_t* image);

}  // namespace sibyl::minigrid
