#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sibyl::annotator {

// What a judge's answer says, found in its text.
struct ParsedAnswer {
  enum Kind { kLabel, kAbstained, kUnparsable };
  Kind kind = kUnparsable;
  int label = -1;     // index in the label set, for kLabel
  size_t offset = 0;  // where the label begins in the text, for kLabel
};

// Reads the label out of an answer: the last `"label": "x"`, `Label: x` or `Answer: x`, in any case and dress; else a
// last line that is nothing but a label. A label inside a longer word does not count ("helpful" in "unhelpful"), nor
// does anything that stands in a reasoning model's <think> part. "abstain" in a label's place: abstained.
ParsedAnswer ParseAnswer(absl::string_view text, const std::vector<std::string>& label_set);

}  // namespace sibyl::annotator
