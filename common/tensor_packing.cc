#include "common/tensor_packing.h"

#include <lz4.h>

#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sibyl {
namespace {

void CompressTo(absl::string_view bytes, std::string* out) {
  out->resize(LZ4_compressBound(static_cast<int>(bytes.size())));
  const int size =
      LZ4_compress_default(bytes.data(), out->data(), static_cast<int>(bytes.size()), static_cast<int>(out->size()));
  out->resize(size);
}

// to[i] = a[i] ^ b[i]; `to` may be `a` or `b`.
void Xor(const char* a, const char* b, size_t n, char* to) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t x, y;
    std::memcpy(&x, a + i, 8);
    std::memcpy(&y, b + i, 8);
    x ^= y;
    std::memcpy(to + i, &x, 8);
  }
  for (; i < n; ++i) to[i] = static_cast<char>(a[i] ^ b[i]);
}

}  // namespace

void ObservationPacker::Pack(absl::string_view bytes, int rows, v1::PackedObservations* packed) {
  packed->set_codec(codec_);
  packed->set_rows(rows);
  switch (codec_) {
    case v1::PACKING_CODEC_XOR_LZ4:
      previous_.resize(bytes.size(), '\0');
      delta_.resize(bytes.size());
      Xor(bytes.data(), previous_.data(), bytes.size(), delta_.data());
      previous_.assign(bytes.data(), bytes.size());
      CompressTo(delta_, packed->mutable_data());
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
  if (packed.codec() == v1::PACKING_CODEC_RAW) {
    if (packed.data().size() != size) {
      return absl::InvalidArgumentError(absl::StrCat("packed observations have ", packed.data().size(), " bytes, not ",
                                                     size, " (", packed.rows(), " rows of ", observation_bytes, ")"));
    }
    *bytes = packed.data();
    return absl::OkStatus();
  }
  if (packed.codec() != v1::PACKING_CODEC_LZ4 && packed.codec() != v1::PACKING_CODEC_XOR_LZ4) {
    return absl::InvalidArgumentError(absl::StrCat("unknown packing codec ", static_cast<int>(packed.codec())));
  }
  unpacked_.resize(size);
  const int unpacked = LZ4_decompress_safe(packed.data().data(), unpacked_.data(),
                                           static_cast<int>(packed.data().size()), static_cast<int>(size));
  if (unpacked < 0 || static_cast<size_t>(unpacked) != size) {
    return absl::InvalidArgumentError(absl::StrCat("packed observations do not unpack to ", size, " bytes (",
                                                   packed.rows(), " rows of ", observation_bytes, ")"));
  }
  if (packed.codec() == v1::PACKING_CODEC_XOR_LZ4) {
    previous_.resize(size, '\0');
    Xor(unpacked_.data(), previous_.data(), size, previous_.data());
    *bytes = previous_;
  } else {
    *bytes = unpacked_;
  }
  return absl::OkStatus();
}

}  // namespace sibyl
