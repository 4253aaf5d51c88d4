#include "common/tensor_packing.h"

#include <lz4.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sibyl {
namespace {

static_assert(std::endian::native == std::endian::little);

// Changes that are at most this many bytes apart are sent as one: saying so would take about as many.
constexpr size_t kGap = 2;

// What the changes of a batch take at most. A varint has one byte more for each factor of 128. Behind the first change,
// each skips more than kGap bytes, which pay for the first byte of both its varints.
size_t MaxChangesBytes(size_t batch_bytes) { return batch_bytes + batch_bytes / 128 + 2; }

void CompressTo(absl::string_view bytes, std::string* out) {
  out->resize(LZ4_compressBound(static_cast<int>(bytes.size())));
  const int size =
      LZ4_compress_default(bytes.data(), out->data(), static_cast<int>(bytes.size()), static_cast<int>(out->size()));
  out->resize(size);
}

// The first i >= `from` with a[i] != b[i]; `size` where there is none.
size_t FirstDifference(const char* a, const char* b, size_t from, size_t size) {
  size_t i = from;
  const auto difference = [&](size_t at) {
    uint64_t x, y;
    std::memcpy(&x, a + at, 8);
    std::memcpy(&y, b + at, 8);
    return x ^ y;
  };
  for (; i + 64 <= size; i += 64) {
    uint64_t any = 0;
    for (size_t word = 0; word < 64; word += 8) any |= difference(i + word);
    if (any != 0) break;
  }
  for (; i + 8 <= size; i += 8) {
    if (const uint64_t x = difference(i); x != 0) return i + static_cast<size_t>(std::countr_zero(x)) / 8;
  }
  for (; i < size && a[i] == b[i]; ++i) continue;
  return i;
}

void AppendVarint(size_t value, std::string* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<char>(value | 128));
  out->push_back(static_cast<char>(value));
}

// Reads a varint of at most 32 bits at *at and moves *at behind it. False where there is none before `end`.
bool TakeVarint(const char** at, const char* end, size_t* value) {
  *value = 0;
  for (int shift = 0; shift < 32 && *at < end; shift += 7) {
    const unsigned char byte = static_cast<unsigned char>(*(*at)++);
    *value |= size_t{byte & 127u} << shift;
    if (byte < 128) return true;
  }
  return false;
}

// Describes how `previous` becomes `bytes`, and makes it so.
void TakeChanges(absl::string_view bytes, std::string* previous, std::string* changes) {
  previous->resize(bytes.size(), '\0');
  changes->clear();
  char* was = previous->data();
  const char* is = bytes.data();
  const size_t size = bytes.size();
  for (size_t written = 0, begin; (begin = FirstDifference(is, was, written, size)) < size;) {
    size_t end = begin + 1;
    for (size_t i = end; i < size && i - end <= kGap; ++i) {
      if (is[i] != was[i]) end = i + 1;
    }
    AppendVarint(begin - written, changes);
    AppendVarint(end - begin, changes);
    changes->append(is + begin, end - begin);
    std::memcpy(was + begin, is + begin, end - begin);
    written = end;
  }
}

// False where `changes` are damaged; `batch` is then half changed.
bool ApplyChanges(absl::string_view changes, std::string* batch) {
  const char *from = changes.data(), *from_end = from + changes.size();
  char *to = batch->data(), *to_end = to + batch->size();
  while (from < from_end) {
    size_t kept, replaced;
    if (!TakeVarint(&from, from_end, &kept) || !TakeVarint(&from, from_end, &replaced)) return false;
    if (kept > static_cast<size_t>(to_end - to)) return false;
    to += kept;
    if (replaced > static_cast<size_t>(to_end - to) || replaced > static_cast<size_t>(from_end - from)) return false;
    std::memcpy(to, from, replaced);
    to += replaced;
    from += replaced;
  }
  return true;
}

}  // namespace

void ObservationPacker::Pack(absl::string_view bytes, int rows, v1::PackedObservations* packed) {
  packed->set_codec(codec_);
  packed->set_rows(rows);
  switch (codec_) {
    case v1::PACKING_CODEC_CHANGES_LZ4:
      TakeChanges(bytes, &previous_, &changes_);
      CompressTo(changes_, packed->mutable_data());
      break;
    case v1::PACKING_CODEC_LZ4:
      CompressTo(bytes, packed->mutable_data());
      break;
    default:
      packed->set_data(bytes.data(), bytes.size());
      break;
  }
}

absl::Status ObservationUnpacker::Unpack(const v1::PackedObservations& packed, size_t observation_bytes,
                                         absl::string_view* bytes) {
  const size_t size = packed.rows() * observation_bytes;
  const auto refuse = [&] {
    return absl::InvalidArgumentError(absl::StrCat("packed observations do not unpack to ", size, " bytes (",
                                                   packed.rows(), " rows of ", observation_bytes, ")"));
  };
  if (packed.codec() == v1::PACKING_CODEC_RAW) {
    if (packed.data().size() != size) return refuse();
    *bytes = packed.data();
    return absl::OkStatus();
  }
  const bool changes = packed.codec() == v1::PACKING_CODEC_CHANGES_LZ4;
  if (!changes && packed.codec() != v1::PACKING_CODEC_LZ4) {
    return absl::InvalidArgumentError(absl::StrCat("unknown packing codec ", static_cast<int>(packed.codec())));
  }
  unpacked_.resize(changes ? MaxChangesBytes(size) : size);
  const int unpacked = LZ4_decompress_safe(packed.data().data(), unpacked_.data(),
                                           static_cast<int>(packed.data().size()), static_cast<int>(unpacked_.size()));
  if (unpacked < 0) return refuse();
  if (changes) {
    previous_.resize(size, '\0');
    if (!ApplyChanges({unpacked_.data(), static_cast<size_t>(unpacked)}, &previous_)) return refuse();
    *bytes = previous_;
  } else {
    if (static_cast<size_t>(unpacked) != size) return refuse();
    *bytes = unpacked_;
  }
  return absl::OkStatus();
}

}  // namespace sibyl
