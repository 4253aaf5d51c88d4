#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "environments/environment.h"

namespace sibyl {

inline constexpr char kNetHackReplayName[] = "debug/NetHackReplay";

// nethack/Score's, under this name.
v1::EnvironmentSpec NetHackReplaySpec(const EnvironmentOptions& options);

// Shows what real games of nethack/Score showed, at the price of a copy: for measuring everything behind an environment
// with the bytes of real play. The first one made in a process plays 2,048 steps of random actions; all of them replay
// that recording, captions and rewards included, each episode from a place that its seed determines. Actions change
// nothing. Episodes take 500 to 1,523 steps; odd seeds terminate, even ones are truncated.
// Errors are those of making and playing nethack/Score.
absl::StatusOr<std::unique_ptr<Environment>> MakeNetHackReplay(const EnvironmentOptions& options);

}  // namespace sibyl
