#pragma once

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sibyl::annotator {

// A text without the blanks and the Markdown fence ("```json" and "```") around it.
inline absl::string_view WithoutFence(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (!absl::ConsumePrefix(&text, "```")) return text;
  while (!text.empty() && absl::ascii_isalnum(static_cast<unsigned char>(text[0]))) text.remove_prefix(1);
  absl::ConsumeSuffix(&text, "```");
  return absl::StripAsciiWhitespace(text);
}

}  // namespace sibyl::annotator
