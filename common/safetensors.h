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

// Safetensors files, which Python's `safetensors` package reads and writes: weights, recorded rollouts.

enum class ArrayType { kUint8, kBool, kInt16, kInt32, kInt64, kFloat32 };

// Bytes of one element.
size_t ArrayTypeBytes(ArrayType type);

struct NamedArray {
  std::string name;
  ArrayType type = ArrayType::kUint8;
  std::vector<int64_t> shape;  // empty for a scalar
  // Row-major, little-endian. A view: somebody else owns the memory.
  absl::string_view bytes;
};

struct Safetensors {
  std::vector<NamedArray> arrays;  // in the order in which their bytes lie in the file
  std::map<std::string, std::string> metadata;
  // The memory that `arrays` points into. The views are valid while a copy of this pointer lives.
  std::shared_ptr<const std::string> storage;
};

// The bytes of a safetensors file with these arrays and this metadata. Arrays of larger elements come first, so that
// every array is aligned. InvalidArgument, which names `name`: two arrays have one name, or bytes do not fit a shape.
absl::StatusOr<std::string> SafetensorsBytes(const std::string& name, absl::Span<const NamedArray> arrays,
                                             const std::map<std::string, std::string>& metadata = {});
// Reads the bytes of a safetensors file. DataLoss: they are none, or their header does not fit them. Unimplemented: an
// element type that is not listed above. Every error begins with `source`.
absl::StatusOr<Safetensors> ParseSafetensors(const std::string& source, std::string bytes);

// Writes a file, as durably and atomically as WriteFileDurably. Errors of SafetensorsBytes and WriteFileDurably.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedArray> arrays,
                              const std::map<std::string, std::string>& metadata = {});

// Reads a whole file. Errors of ReadFile and ParseSafetensors, which name the file.
absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path);

}  // namespace sibyl
