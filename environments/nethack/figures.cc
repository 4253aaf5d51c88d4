#include "environments/nethack/figures.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace sibyl::nethack {
namespace {

constexpr int kMapCells = kRows * kColumns;
// The glyph of a cell that was never seen ("dark part of a room" and solid stone).
constexpr int16_t kUnseen = 2359;

}  // namespace

void Update(Figures& figures, const Game& game) {
  if (!game.observation.in_normal_game) return;
  const int64_t* blstats = game.observation.blstats;
  auto& values = figures.values;
  values[kDeepestLevel] = std::max(values[kDeepestLevel], static_cast<double>(blstats[kDepth]));
  values[kGoldFigure] = static_cast<double>(blstats[kGold]);
  values[kExperienceLevel] = static_cast<double>(blstats[kLevel]);
  values[kTurns] = static_cast<double>(blstats[kTime]);
  values[kScoreFigure] = static_cast<double>(blstats[kScore]);
  const absl::string_view message = Message(game);
  if (absl::StrContains(message, "you kill") || absl::StrContains(message, "You kill")) ++values[kKills];

  int unseen = 0;
  for (int i = 0; i < kMapCells; ++i) unseen += game.observation.glyphs[i] == kUnseen;
  int64_t& seen = figures.seen[{blstats[kDungeon], blstats[kDungeonLevel]}];
  values[kScout] += static_cast<double>(kMapCells - unseen - seen);
  seen = kMapCells - unseen;
}

}  // namespace sibyl::nethack
