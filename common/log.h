#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace sibyl {

// Sets up logging for a process: lines on standard error as "time level [process] text", flushed at each line.
// Call once, first in main; then use SPDLOG's functions (spdlog::info, ...), from any thread.
void InitLog(const std::string& process);

// Names the calling thread, at most 15 characters, as top and gdb show it.
void NameThread(const char* name);

}  // namespace sibyl
