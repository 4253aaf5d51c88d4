#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl {

// The canonical form of a caption under a rule. Bytes that are not UTF-8 become '?'.
std::string CanonicalCaption(absl::string_view text, v1::CaptionRule rule);

// A caption's identity: a fixed 64-bit hash (XXH64's construction, seed 0) of its canonical text, the same on every
// machine, build and restart. 0 stands for "no caption": the empty text has id 0, and no other text has.
uint64_t CaptionId(absl::string_view canonical_text);

}  // namespace sibyl
