#pragma once

#include <optional>

#include "absl/strings/string_view.h"

namespace sibyl::annotator {

// The answer in what a reasoning model wrote: what stands behind its thinking. Thinking is found by the marks of the
// model families (<think>, [THINK], <thinking>, <reasoning>, harmony's channels and others), in any case; a closing
// mark may come without its opening one, which then stood in the prompt. nullopt: the text ends while it thinks.
// A text without marks is all answer.
std::optional<absl::string_view> WithoutThinking(absl::string_view text);

}  // namespace sibyl::annotator
