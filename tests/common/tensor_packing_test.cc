#include "common/tensor_packing.h"

#include <gtest/gtest.h>

#include "common/random.h"

namespace sibyl {
namespace {

class Packing : public testing::TestWithParam<v1::PackingCodec> {};

TEST_P(Packing, GivesBackEveryBatch) {
  ObservationPacker packer(GetParam());
  ObservationUnpacker unpacker;
  Random random(3);
  std::string bytes(5 * 100, 'x');
  for (int step = 0; step < 50; ++step) {
    for (int i = 0; i < 7; ++i) bytes[random.Below(bytes.size())] = static_cast<char>(random.Below(256));
    v1::PackedObservations packed;
    packer.Pack(bytes, 5, &packed);
    absl::string_view unpacked;
    ASSERT_TRUE(unpacker.Unpack(packed, 100, &unpacked).ok());
    ASSERT_EQ(unpacked, bytes);
  }
}

TEST_P(Packing, RefusesBytesThatDoNotFit) {
  ObservationPacker packer(GetParam());
  v1::PackedObservations packed;
  packer.Pack(std::string(300, 'a'), 3, &packed);
  absl::string_view unpacked;
  ObservationUnpacker unpacker;
  EXPECT_EQ(unpacker.Unpack(packed, 99, &unpacked).code(), absl::StatusCode::kInvalidArgument);
  packed.mutable_data()->resize(packed.data().size() / 2);
  ObservationUnpacker other;
  EXPECT_EQ(other.Unpack(packed, 100, &unpacked).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Codecs, Packing,
                         testing::Values(v1::PACKING_CODEC_RAW, v1::PACKING_CODEC_LZ4, v1::PACKING_CODEC_XOR_LZ4));

TEST(ObservationPacker, SendsLittleWhenLittleChanges) {
  ObservationPacker packer(v1::PACKING_CODEC_XOR_LZ4);
  Random random(3);
  std::string bytes(100'000, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.Below(256));
  v1::PackedObservations first, second;
  packer.Pack(bytes, 1, &first);
  bytes[500] ^= 1;
  packer.Pack(bytes, 1, &second);
  EXPECT_GT(first.data().size(), 90'000u);
  EXPECT_LT(second.data().size(), 1'000u);
}

}  // namespace
}  // namespace sibyl
