#include "environments/nethack/family.h"

namespace sibyl::nethack {

EnvironmentFamily Family() {
  return {"nethack/", [] { return std::vector<std::string>(); },
          [](absl::string_view, const EnvironmentOptions&) { return v1::EnvironmentSpec(); },
          [](absl::string_view, const EnvironmentOptions&) -> absl::StatusOr<std::unique_ptr<Environment>> {
            return absl::UnimplementedError("nethack");
          }};
}

}  // namespace sibyl::nethack
