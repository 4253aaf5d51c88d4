#include "environments/minigrid/family.h"

namespace sibyl::minigrid {

EnvironmentFamily Family() {
  return {"minigrid/", [] { return std::vector<std::string>(); },
          [](absl::string_view, const EnvironmentOptions&) { return v1::EnvironmentSpec(); },
          [](absl::string_view, const EnvironmentOptions&) -> absl::StatusOr<std::unique_ptr<Environment>> {
            return absl::UnimplementedError("minigrid");
          }};
}

}  // namespace sibyl::minigrid
