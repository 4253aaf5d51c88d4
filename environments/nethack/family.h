#pragma once

#include "environments/family.h"

namespace sibyl::nethack {

EnvironmentFamily Family();

}  // namespace sibyl::nethack
