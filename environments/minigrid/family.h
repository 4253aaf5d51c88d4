#pragma once

#include "environments/family.h"

namespace sibyl::minigrid {

EnvironmentFamily Family();

}  // namespace sibyl::minigrid
