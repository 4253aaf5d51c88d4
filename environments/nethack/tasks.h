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
  bool in_normal_game = false;
};

// A task: which keys can be pressed, and what pays. One entry in Tasks() each.
struct Task {
  const char* name;  // after "nethack/"
  absl::Span<const Action> actions;
  uint32_t max_episode_steps;
  double (*reward)(const Moment& before, const Moment& after);
};

absl::Span<const Task> Tasks();

// nullptr: there is none of that name.
const Task* FindTask(absl::string_view name);

}  // namespace sibyl::nethack
