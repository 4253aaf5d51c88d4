#include "environments/debug/family.h"

#include "environments/debug/alignment.h"
#include "environments/debug/nethack_replay.h"

namespace sibyl {

EnvironmentFamily DebugFamily() {
  return {
      "debug/",
      [] {
        return std::vector<std::string>{kAlignmentName, kNetHackReplayName};
      },
      [](absl::string_view name, const EnvironmentOptions& options) {
        return name == kAlignmentName ? AlignmentSpec(options) : NetHackReplaySpec(options);
      },
      [](absl::string_view name, const EnvironmentOptions& options) -> absl::StatusOr<std::unique_ptr<Environment>> {
        return name == kAlignmentName ? MakeAlignment(options) : MakeNetHackReplay(options);
      }};
}

}  // namespace sibyl
