#pragma once

#include <cstdint>

namespace sibyl {

// Version of the contracts in proto/sibyl/v1. Raise it when a process of the old version could misread a new one.
inline constexpr uint32_t kProtocolVersion = 4;

}  // namespace sibyl
