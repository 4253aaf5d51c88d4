#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "environments/minigrid/view.h"
#include "environments/minigrid/world.h"

namespace sibyl::minigrid {

// One sentence for what happened, e.g. "You pick up the yellow key."; empty for nothing. Lives as long as the process.
absl::string_view EventCaption(const Event& event);

// What is wanted, in view and carried, e.g. "Goal: pick up the red ball. You see a yellow key 2 steps ahead and 1 step
// left. You carry nothing." Nearest things come first; walls are left out.
std::string Describe(const World& world);

}  // namespace sibyl::minigrid
