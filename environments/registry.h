#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "environments/environment.h"
#include "environments/environment_group.h"

namespace sibyl {

// Names of all environments, sorted.
std::vector<std::string> EnvironmentNames();

// What an environment is, without making one (no game library is loaded).
// NotFound: no such name; the message says which was likely meant.
absl::StatusOr<v1::EnvironmentSpec> FindEnvironmentSpec(absl::string_view name, const EnvironmentOptions& options = {});

// Makes an environment. NotFound as above; FailedPrecondition when something it needs is not installed, naming it.
absl::StatusOr<std::unique_ptr<Environment>> MakeEnvironment(absl::string_view name,
                                                             const EnvironmentOptions& options = {});

// Makes a group of `rows` environments. Errors as above.
absl::StatusOr<std::unique_ptr<EnvironmentGroup>> MakeEnvironmentGroup(absl::string_view name, int rows,
                                                                       const GroupOptions& options);

}  // namespace sibyl
