#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "environments/nethack/game.h"

namespace sibyl::nethack {

struct Action {
  const char* name;
  Key key;
};

// What a reward is made from: the game before an action or after it.
struct Moment {
  int64_t blstats[kBlstats] = {};
  int64_t nutrition = 0;  // 900 at birth, hungry below 150
  double cells_seen = 0;  // over all levels; 0 before the first action
  bool in_normal_game = false;
};

// A task: which keys can be pressed, what they do, what pays and what the goal is. One entry in Tasks() each.
struct Task {
  const char* name;  // after "nethack/"
  absl::Span<const Action> actions;
  void (*play)(Game& game, Key key);
  // `reached`: the goal was reached with this action, for the first time in the episode.
  double (*reward)(const Moment& before, const Moment& after, bool reached);
  // Whether the game stands at the goal; nullptr: there is none.
  bool (*at_goal)(const Game& game) = nullptr;
  // The episode goes on after the goal.
  bool continual = false;
  uint32_t max_episode_steps = 5000;
  // Actions without a turn passing after which the episode is cut off; 0: never.
  uint32_t max_idle_steps = 0;
  GameOptions options = {};
};

absl::Span<const Task> Tasks();

// nullptr: there is none of that name.
const Task* FindTask(absl::string_view name);

}  // namespace sibyl::nethack
