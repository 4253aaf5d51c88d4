#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/types/span.h"
#include "environments/nethack/game.h"

namespace sibyl::nethack {

// What is reported of an episode. Everything but end_status is as it last stood while the game was on: once it is
// over the game shows zeros.
enum Figure {
  kDeepestLevel,     // greatest depth reached
  kGoldFigure,       // gold carried
  kExperienceLevel,  // 1 to 30
  kScout,            // map cells seen, over all levels visited, each counted as when it was last seen
  kKills,            // messages saying that the hero (or somebody about her) killed: "you kill"
  kTurns,            // the game's turn counter
  kScoreFigure,      // the game's points
  kEndStatus,  // 0 running, 1 the game ended (death, mostly), 2 the goal was reached, -1 cut off at the step limit
  kFigures
};
inline constexpr const char* kFigureNames[kFigures] = {"deepest_level", "gold",  "experience_level", "scout", "kills",
                                                       "turns",         "score", "end_status"};

struct Figures {
  std::array<double, kFigures> values = {};
  // Cells seen by (dungeon, level).
  std::map<std::pair<int64_t, int64_t>, int64_t> seen;
};

// Takes in what the game shows after a step; nothing where it is over.
void Update(Figures& figures, const Game& game);

}  // namespace sibyl::nethack
