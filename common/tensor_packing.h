#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// Packs the observations of one group, batch after batch, for one direction of one stream. One thread at a time.
//
// With PACKING_CODEC_CHANGES_LZ4 both ends remember the previous batch. So one unpacker must unpack every packed batch
// in order. Few bytes change between two steps, and only those are compressed, sent and written.
class ObservationPacker {
 public:
  explicit ObservationPacker(v1::PackingCodec codec) : codec_(codec) {}

  // `bytes` holds `rows` observations one after another.
  void Pack(absl::string_view bytes, int rows, v1::PackedObservations* packed);

 private:
  const v1::PackingCodec codec_;
  std::string previous_, changes_;
};

class ObservationUnpacker {
 public:
  // The bytes of the batch, `rows * observation_bytes` long; valid until the next call.
  // InvalidArgument when `packed` does not make that many bytes or is damaged; the unpacker is then of no more use.
  absl::Status Unpack(const v1::PackedObservations& packed, size_t observation_bytes, absl::string_view* bytes);

 private:
  std::string previous_, unpacked_;
};

}  // namespace sibyl
