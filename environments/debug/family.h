#pragma once

#include "environments/family.h"

namespace sibyl {

// alignment.h for tests, nethack_replay.h for measuring.
EnvironmentFamily DebugFamily();

}  // namespace sibyl
