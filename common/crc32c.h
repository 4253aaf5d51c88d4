#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace sibyl {

// CRC-32C (Castagnoli, RFC 3720 appendix B.4). `before` is the checksum of the bytes that come before these; 0: none.
uint32_t Crc32c(absl::string_view bytes, uint32_t before = 0);

}  // namespace sibyl
