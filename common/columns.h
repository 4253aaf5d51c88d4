#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace sibyl {

// Columns: fixed-size entries, little-endian, one after another in a `bytes` field of a message.

// Adds an entry at the end of the column.
template <typename T>
void AppendTo(std::string* column, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  column->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Entries of a column. The column's size must be a multiple of T's.
template <typename T>
size_t CountIn(absl::string_view column) {
  return column.size() / sizeof(T);
}

// An entry of a column. `index` must be below CountIn.
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

}  // namespace sibyl
