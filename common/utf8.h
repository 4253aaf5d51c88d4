#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace sibyl {

// Bytes of the UTF-8 character that `text` begins with; 0 where it begins with none or is empty. Overlong forms,
// surrogates and code points above U+10FFFF are no characters.
size_t Utf8CharacterLength(absl::string_view text);

bool IsUtf8(absl::string_view text);

// The text with every byte that is not part of valid UTF-8 replaced by '?': what protobuf's strings can carry.
std::string ValidUtf8(absl::string_view text);

}  // namespace sibyl
