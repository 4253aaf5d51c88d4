#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sibyl {

// What to add to an error about an unknown name: "; did you mean learner.gamma?" names the candidates that differ least
// from it, at most three. Empty where no candidate is near. A name's parts are separated by '.' or '/'; letters' case
// does not count. A candidate whose last part fits is near, wherever it stands.
std::string DidYouMean(absl::string_view name, absl::Span<const std::string> candidates);

}  // namespace sibyl
