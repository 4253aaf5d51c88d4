#include "common/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

// The format: 8 bytes little-endian length of a JSON header, the header, then the arrays' bytes without gaps.
// https://huggingface.co/docs/safetensors/index#format

namespace sibyl {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMetadataKey[] = "__metadata__";

struct TypeName {
  ArrayType type;
  absl::string_view name;
  size_t bytes;
};
constexpr TypeName kTypes[] = {
    {ArrayType::kUint8, "U8", 1},  {ArrayType::kBool, "BOOL", 1}, {ArrayType::kInt16, "I16", 2},
    {ArrayType::kInt32, "I32", 4}, {ArrayType::kInt64, "I64", 8}, {ArrayType::kFloat32, "F32", 4},
};

const TypeName& Describe(ArrayType type) { return kTypes[static_cast<size_t>(type)]; }

// Bytes of an array, or nothing where an extent is negative or the product does not fit.
std::optional<uint64_t> ShapeBytes(ArrayType type, absl::Span<const int64_t> shape) {
  uint64_t bytes = ArrayTypeBytes(type);
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, " is not a sound safetensors file: ", what));
}

// One entry of the header; `data` is everything after the header.
absl::StatusOr<NamedArray> ParseEntry(const std::string& path, const std::string& name, const nlohmann::json& entry,
                                      absl::string_view data) {
  const auto damaged = [&](absl::string_view what) { return Damaged(path, absl::StrCat("array `", name, "` ", what)); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() || !entry.contains("shape") ||
      !entry["shape"].is_array() || !entry.contains("data_offsets") || !entry["data_offsets"].is_array() ||
      entry["data_offsets"].size() != 2) {
    return damaged("lacks a dtype, a shape or two data_offsets");
  }
  NamedArray array;
  array.name = name;
  const std::string& dtype = entry["dtype"].get_ref<const std::string&>();
  const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const TypeName& candidate) { return candidate.name == dtype; });
  if (type == std::end(kTypes)) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": array `", name, "` has dtype ", dtype, "; known are U8, BOOL, I16, I32, I64, F32"));
  }
  array.type = type->type;
  for (const auto& extent : entry["shape"]) {
    if (!extent.is_number_integer()) return damaged("has an extent that is no integer");
    array.shape.push_back(extent.get<int64_t>());
  }
  for (const auto& offset : entry["data_offsets"]) {
    if (!offset.is_number_unsigned()) return damaged("has an offset that is no unsigned integer");
  }
  const auto begin = entry["data_offsets"][0].get<uint64_t>(), end = entry["data_offsets"][1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return damaged(absl::StrCat("lies at ", begin, " to ", end, " of ", data.size(), " bytes"));
  }
  const std::optional<uint64_t> bytes = ShapeBytes(array.type, array.shape);
  if (!bytes.has_value() || *bytes != end - begin) {
    return damaged(absl::StrCat("of shape [", absl::StrJoin(array.shape, ","), "] and dtype ", dtype, " has ",
                                end - begin, " bytes"));
  }
  array.bytes = data.substr(begin, end - begin);
  return array;
}

}  // namespace

size_t ArrayTypeBytes(ArrayType type) { return Describe(type).bytes; }

absl::StatusOr<std::string> SafetensorsBytes(const std::string& name, absl::Span<const NamedArray> arrays,
                                             const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedArray*> order;
  std::set<absl::string_view> names = {kMetadataKey};
  for (const NamedArray& array : arrays) {
    const std::optional<uint64_t> bytes = ShapeBytes(array.type, array.shape);
    if (!bytes.has_value() || *bytes != array.bytes.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": array `", array.name, "` of shape [",
                                                     absl::StrJoin(array.shape, ","), "] and dtype ",
                                                     Describe(array.type).name, " has ", array.bytes.size(), " bytes"));
    }
    if (!names.insert(array.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": array name `", array.name, "` is taken"));
    }
    order.push_back(&array);
  }
  std::stable_sort(order.begin(), order.end(), [](const NamedArray* a, const NamedArray* b) {
    return ArrayTypeBytes(a->type) > ArrayTypeBytes(b->type);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  uint64_t offset = 0;
  for (const NamedArray* array : order) {
    header[array->name] = {{"dtype", std::string(Describe(array->type).name)},
                           {"shape", array->shape},
                           {"data_offsets", {offset, offset + array->bytes.size()}}};
    offset += array->bytes.size();
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the arrays start at a multiple of 8

  const uint64_t length = text.size();
  std::string file;
  file.reserve(sizeof length + text.size() + offset);
  file.append(reinterpret_cast<const char*>(&length), sizeof length);
  file.append(text);
  for (const NamedArray* array : order) file.append(array->bytes.data(), array->bytes.size());
  return file;
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedArray> arrays,
                              const std::map<std::string, std::string>& metadata) {
  SIBYL_ASSIGN_OR_RETURN(const std::string file, SafetensorsBytes(path, arrays, metadata));
  return WriteFileDurably(path, file);
}

absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
  return ParseSafetensors(path, std::move(bytes));
}

absl::StatusOr<Safetensors> ParseSafetensors(const std::string& source, std::string bytes) {
  Safetensors result;
  result.storage = std::make_shared<const std::string>(std::move(bytes));
  absl::string_view data = *result.storage;

  uint64_t length = 0;
  if (data.size() < sizeof length) return Damaged(source, absl::StrCat("it has only ", data.size(), " bytes"));
  std::memcpy(&length, data.data(), sizeof length);
  data.remove_prefix(sizeof length);
  if (length > data.size()) {
    return Damaged(source, absl::StrCat("its header of ", length, " bytes is longer than the file"));
  }
  const nlohmann::json header = nlohmann::json::parse(data.begin(), data.begin() + length, nullptr, false);
  data.remove_prefix(length);
  if (!header.is_object()) return Damaged(source, "its header is not a JSON object");

  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      if (!entry.is_object()) return Damaged(source, "its metadata is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) return Damaged(source, absl::StrCat("its metadata `", key, "` is not a string"));
        result.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    SIBYL_ASSIGN_OR_RETURN(NamedArray array, ParseEntry(source, name, entry, data));
    result.arrays.push_back(std::move(array));
  }
  std::stable_sort(result.arrays.begin(), result.arrays.end(), [](const NamedArray& a, const NamedArray& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  const char* next = data.data();
  for (const NamedArray& array : result.arrays) {
    if (array.bytes.data() != next)
      return Damaged(source, absl::StrCat("there is a gap or overlap before `", array.name, "`"));
    next += array.bytes.size();
  }
  if (next != data.data() + data.size()) return Damaged(source, "bytes follow the last array");
  return result;
}

}  // namespace sibyl
