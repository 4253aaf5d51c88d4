#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace sibyl {

// Little-endian columns of fixed-size entries in `bytes` fields of messages.

template <typename T>
void AppendTo(std::string* column, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  column->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Entries of a column; its size must be a multiple of T's.
template <typename T>
size_t CountIn(absl::string_view column) {
  return column.size() / sizeof(T);
}

template <typename T>
T EntryOf(absl::string_view column, size_t index) {
  T value;
  std::memcpy(&value, column.data() + index * sizeof value, sizeof value);
  return value;
}

// An entry of a column whose length the caller knows.
template <typename T>
T EntryOf(const char* column, size_t index) {
  T value;
  std::memcpy(&value, column + index * sizeof value, sizeof value);
  return value;
}

// StepBatch.flags.
inline constexpr unsigned char kTerminated = 1, kTruncated = 2, kFirst = 4;

}  // namespace sibyl
