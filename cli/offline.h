#pragma once

#include <string>

#include "absl/types/span.h"

namespace sibyl::cli {

// Commands that need no training: what a run saw, labels for it, and a reward model fitted to them (Motif's way).
int CaptionsMain(absl::Span<const std::string> arguments);
int AnnotateMain(absl::Span<const std::string> arguments);
int FitRewardMain(absl::Span<const std::string> arguments);
// `sibyl judge`: holds a judge's labels against a person's, for several prompts and models.
int JudgeMain(absl::Span<const std::string> arguments);

}  // namespace sibyl::cli
