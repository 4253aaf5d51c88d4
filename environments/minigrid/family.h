#pragma once

#include "environments/family.h"

namespace sibyl::minigrid {

// "minigrid/...": Farama's MiniGrid, step by step identical to its package for the same seed.
//   image      uint8 [7, 7, 3], direction int64 []: as in the package. The mission is part of Context().
//   caption    what the step changed ("You unlock the red door."); empty where nothing changed.
//   figures    doors_opened (each time that a door was opened), objects_picked (each time that a thing was picked up).
//   EnvironmentOptions.max_episode_steps is the package's `max_steps`: the reward is measured against it, too.
EnvironmentFamily Family();

}  // namespace sibyl::minigrid
