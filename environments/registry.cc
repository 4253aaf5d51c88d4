#include "environments/registry.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/nearest.h"
#include "common/status_macros.h"
#include "environments/debug/family.h"
#include "environments/family.h"
#include "environments/minigrid/family.h"
#include "environments/nethack/family.h"

namespace sibyl {
namespace {

const std::vector<EnvironmentFamily>& Families() {
  static const auto& families =
      *new std::vector<EnvironmentFamily>{DebugFamily(), minigrid::Family(), nethack::Family()};
  return families;
}

absl::StatusOr<const EnvironmentFamily*> FamilyOf(absl::string_view name) {
  for (const EnvironmentFamily& family : Families()) {
    if (!absl::StartsWith(name, family.prefix)) continue;
    const auto names = family.names();
    if (std::find(names.begin(), names.end(), name) != names.end()) return &family;
  }
  const std::string meant = DidYouMean(name, EnvironmentNames());
  return absl::NotFoundError(
      absl::StrCat("no environment is called `", name, "`", meant.empty() ? "; `sibyl envs` lists them" : meant));
}

}  // namespace

std::vector<std::string> EnvironmentNames() {
  std::vector<std::string> all;
  for (const EnvironmentFamily& family : Families()) {
    for (std::string& name : family.names()) all.push_back(std::move(name));
  }
  std::sort(all.begin(), all.end());
  return all;
}

absl::StatusOr<v1::EnvironmentSpec> FindEnvironmentSpec(absl::string_view name, const EnvironmentOptions& options) {
  auto family = FamilyOf(name);
  if (!family.ok()) return family.status();
  return (*family)->spec(name, options);
}

absl::StatusOr<std::unique_ptr<Environment>> MakeEnvironment(absl::string_view name,
                                                             const EnvironmentOptions& options) {
  auto family = FamilyOf(name);
  if (!family.ok()) return family.status();
  return (*family)->make(name, options);
}

absl::StatusOr<std::unique_ptr<EnvironmentGroup>> MakeEnvironmentGroup(absl::string_view name, int rows,
                                                                       const GroupOptions& options) {
  std::vector<std::unique_ptr<Environment>> environments;
  for (int row = 0; row < rows; ++row) {
    SIBYL_ASSIGN_OR_RETURN(environments.emplace_back(), MakeEnvironment(name, options.environment));
  }
  return MakeInProcessGroup(std::move(environments), options.contexts);
}

}  // namespace sibyl
