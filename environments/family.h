#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "environments/environment.h"

namespace sibyl {

// The environments whose names start with one prefix. The registry asks a family only about names it listed, and
// passes them whole, e.g. "minigrid/DoorKey-8x8".
struct EnvironmentFamily {
  std::string prefix;  // e.g. "minigrid/"
  std::vector<std::string> (*names)();
  v1::EnvironmentSpec (*spec)(absl::string_view name, const EnvironmentOptions& options);
  absl::StatusOr<std::unique_ptr<Environment>> (*make)(absl::string_view name, const EnvironmentOptions& options);
};

}  // namespace sibyl
