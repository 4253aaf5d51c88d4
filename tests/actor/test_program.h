#pragma once

#include "common/runtime/program.h"
#include "tests/heartbeat_watch.h"

namespace sibyl {

// What RunMain gives a program, on a clock that stands still.
struct TestProgram {
  HeartbeatWatch watch;
  Ending ending;
  Program program{{}, {}, watch.clock, FileSystem::Real(), watch.metrics, ending, watch.heartbeats};
};

}  // namespace sibyl
