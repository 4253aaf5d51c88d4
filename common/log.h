#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "absl/strings/string_view.h"

#ifndef ABSL_USES_STD_STRING_VIEW
// Abseil built for C++14 has a string_view of its own.
template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<fmt::string_view> {
  auto format(absl::string_view text, fmt::format_context& context) const {
    return fmt::formatter<fmt::string_view>::format({text.data(), text.size()}, context);
  }
};
#endif

namespace sibyl {

// Sets up logging for a process: lines on standard error as "time level [process] text", flushed at each line.
// Call once, first in main; then use SPDLOG's functions (spdlog::info, ...), from any thread.
void InitLog(const std::string& process);

// Names the calling thread, at most 15 characters, as top and gdb show it.
void NameThread(const char* name);

}  // namespace sibyl
