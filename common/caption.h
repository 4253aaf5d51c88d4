#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl {

// The canonical form of a caption under a rule: UTF-8 without white space at its ends, of at most `max_length` bytes.
// Bytes that are not UTF-8 become '?'. A longer text is cut between two characters, and `cut`, if not null, is then set
// to true.
std::string CanonicalCaption(absl::string_view text, v1::CaptionRule rule, size_t max_length, bool* cut = nullptr);

// A caption's identity: a fixed 64-bit hash (XXH64, seed 0) of its canonical text, the same on every machine, build and
// restart. Only the empty text, which is no caption, has id 0.
uint64_t CaptionId(absl::string_view canonical_text);

}  // namespace sibyl
