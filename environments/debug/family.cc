#include "environments/debug/family.h"

#include "environments/debug/alignment.h"
#include "environments/debug/nethack_replay.h"
#include "environments/debug/targets.h"

namespace sibyl {

EnvironmentFamily DebugFamily() {
  return {
      "debug/",
      [] {
        return std::vector<std::string>{kAlignmentName, kChoicesName, kNetHackReplayName, kReachName};
      },
      [](absl::string_view name, const EnvironmentOptions& options) {
        if (name == kAlignmentName) return AlignmentSpec(options);
        if (name == kNetHackReplayName) return NetHackReplaySpec(options);
        return TargetsSpec(name, options);
      },
      [](absl::string_view name, const EnvironmentOptions& options) -> absl::StatusOr<std::unique_ptr<Environment>> {
        if (name == kAlignmentName) return MakeAlignment(options);
        if (name == kNetHackReplayName) return MakeNetHackReplay(options);
        return MakeTargets(name, options);
      }};
}

}  // namespace sibyl
