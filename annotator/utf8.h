#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sibyl::annotator {

// The text with every byte that is not part of valid UTF-8 replaced by '?': what protobuf's strings can carry.
inline std::string ValidUtf8(absl::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char first = byte(i);
    const size_t length = first < 0x80                    ? 1
                          : first >= 0xc2 && first < 0xe0 ? 2
                          : first >= 0xe0 && first < 0xf0 ? 3
                          : first >= 0xf0 && first < 0xf5 ? 4
                                                          : 0;
    bool valid = length > 0 && i + length <= text.size();
    for (size_t k = 1; valid && k < length; ++k) valid = (byte(i + k) & 0xc0) == 0x80;
    // Overlong forms, surrogates, and what lies beyond U+10FFFF.
    if (valid && length >= 3) {
      const unsigned char second = byte(i + 1);
      valid = !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second >= 0xa0) &&
              !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second >= 0x90);
    }
    if (valid) {
      result.append(text.data() + i, length);
      i += length;
    } else {
      result.push_back('?');
      ++i;
    }
  }
  return result;
}

}  // namespace sibyl::annotator
