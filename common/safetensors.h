#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sibyl {

// Files of named arrays that Python's `safetensors` package reads and writes: weights, recorded rollouts.

enum class ArrayType { kUint8, kBool, kInt16, kInt32, kInt64, kFloat32 };

// Bytes of one element.
size_t ArrayTypeBytes(ArrayType type);

struct NamedArray {
  std::string name;
  ArrayType type = ArrayType::kUint8;
  std::vector<int64_t> shape;  // empty for a scalar
  // Row-major, little-endian. Points into memory that somebody else owns.
  absl::string_view bytes;
};

struct Safetensors {
  std::vector<NamedArray> arrays;  // in the order in which their bytes lie in the file
  std::map<std::string, std::string> metadata;
  // What `arrays` points into; the views are valid while a copy of this pointer lives.
  std::shared_ptr<const std::string> storage;
};

// The bytes of such a file: the arrays, largest elements first, so that every one is aligned, and the metadata.
// InvalidArgument, naming `name`: two arrays of one name, or bytes that do not fit a shape.
absl::StatusOr<std::string> SafetensorsBytes(const std::string& name, absl::Span<const NamedArray> arrays,
                                             const std::map<std::string, std::string>& metadata = {});
// Reads such bytes. DataLoss: they are no safetensors file, or one whose header does not fit its bytes; Unimplemented:
// an element type not listed above. Every error begins with `source`.
absl::StatusOr<Safetensors> ParseSafetensors(const std::string& source, std::string bytes);

// Writes a file, durable and atomic as WriteFileDurably is.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedArray> arrays,
                              const std::map<std::string, std::string>& metadata = {});

// Reads a whole file. NotFound as ReadFile; otherwise as ParseSafetensors, naming the file.
absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path);

}  // namespace sibyl
