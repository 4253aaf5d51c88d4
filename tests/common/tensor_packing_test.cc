#include "common/tensor_packing.h"

#include <gtest/gtest.h>
#include <lz4.h>

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
                         testing::Values(v1::PACKING_CODEC_RAW, v1::PACKING_CODEC_LZ4, v1::PACKING_CODEC_CHANGES_LZ4));

// What a stream of one PACKING_CODEC_CHANGES_LZ4 batch says, compressed.
v1::PackedObservations Changes(const std::string& changes, int rows) {
  v1::PackedObservations packed;
  packed.set_codec(v1::PACKING_CODEC_CHANGES_LZ4);
  packed.set_rows(rows);
  std::string* data = packed.mutable_data();
  data->resize(LZ4_compressBound(static_cast<int>(changes.size())));
  data->resize(LZ4_compress_default(changes.data(), data->data(), static_cast<int>(changes.size()),
                                    static_cast<int>(data->size())));
  return packed;
}

TEST(Changes, AreWhatTheContractSays) {
  ObservationUnpacker unpacker;
  absl::string_view unpacked;
  ASSERT_TRUE(unpacker.Unpack(Changes({"\x02\x03xyz\x01\x01w", 8}, 2), 5, &unpacked).ok());
  EXPECT_EQ(unpacked, absl::string_view("\0\0xyz\0w\0\0\0", 10));
  ASSERT_TRUE(unpacker.Unpack(Changes({"\x03\x01Y", 3}, 2), 5, &unpacked).ok());
  EXPECT_EQ(unpacked, absl::string_view("\0\0xYz\0w\0\0\0", 10));
  ASSERT_TRUE(unpacker.Unpack(Changes("", 2), 5, &unpacked).ok());
  EXPECT_EQ(unpacked, absl::string_view("\0\0xYz\0w\0\0\0", 10));
}

TEST(Changes, ThatAreDamagedAreRefused) {
  for (const std::string& changes : {
           std::string("\x0b\x01x"),                             // starts behind the end of the batch
           std::string("\x09\x02xy"),                            // ends behind it
           std::string("\x00\x0bxxxxxxxxxxx", 13),               // all of it and more
           std::string("\x00\x05xyz", 5),                        // has fewer bytes than it says
           std::string("\x01"),                                  // has no length
           std::string("\x81"),                                  // a varint that does not end
           std::string("\x00\x81", 2),                           // the same for the length
           std::string("\x81\x80\x80\x80\x80\x80\x00\x01x", 9),  // a varint too long
           std::string("\xff\xff\xff\xff\x7f\x01x"),             // as far as it can go
           std::string("\x00\xff\xff\xff\xff\x7fx", 7),          // as much as it can say
           std::string("\x01\x01x\x08\x01x\x00\x01x", 9),        // the last one does not fit any more
           std::string(1000, '\0'),                              // more than the changes of such a batch can be
       }) {
    ObservationUnpacker unpacker;
    absl::string_view unpacked;
    EXPECT_EQ(unpacker.Unpack(Changes(changes, 2), 5, &unpacked).code(), absl::StatusCode::kInvalidArgument)
        << testing::PrintToString(changes);
  }
}

// Random damage may happen to be a batch; under AddressSanitizer this shows that nothing outside is touched.
TEST(Changes, ThatAreDamagedAtRandomAreRefusedOrABatch) {
  Random random(7);
  for (int i = 0; i < 20'000; ++i) {
    ObservationPacker packer(v1::PACKING_CODEC_CHANGES_LZ4);
    std::string bytes(40, '\0');
    for (char& byte : bytes) byte = random.Below(3) == 0 ? static_cast<char>(random.Below(256)) : '\0';
    v1::PackedObservations packed;
    packer.Pack(bytes, 4, &packed);
    v1::PackedObservations damaged = packed;
    std::string& data = *damaged.mutable_data();
    if (random.Below(2) == 0) data.resize(random.Below(data.size() + 1));
    for (uint64_t n = random.Below(4); n > 0 && !data.empty(); --n) {
      data[random.Below(data.size())] = static_cast<char>(random.Below(256));
    }
    if (random.Below(2) == 0) damaged = Changes(data, 4);
    ObservationUnpacker unpacker;
    absl::string_view unpacked;
    const absl::Status status = unpacker.Unpack(damaged, 10, &unpacked);
    if (status.ok()) {
      EXPECT_EQ(unpacked.size(), 40u);
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

// Changes of every length and distance, among them those that describe a batch at the greatest length.
TEST(Changes, GiveBackEveryPattern) {
  Random random(11);
  for (int i = 0; i < 3'000; ++i) {
    ObservationPacker packer(v1::PACKING_CODEC_CHANGES_LZ4);
    ObservationUnpacker unpacker;
    std::string bytes(1 + random.Below(i % 10 == 0 ? 40'000 : 300), '\0');
    for (int step = 0; step < 4; ++step) {
      const uint64_t longest_change = 1 + random.Below(i % 3 == 0 ? 1 : 200);
      const uint64_t longest_gap = 1 + random.Below(i % 2 == 0 ? 4 : 300);
      for (size_t at = random.Below(4); at < bytes.size();) {
        for (uint64_t n = 1 + random.Below(longest_change); n > 0 && at < bytes.size(); --n) ++bytes[at++];
        at += i % 5 == 0 ? 3 : 1 + random.Below(longest_gap);
      }
      v1::PackedObservations packed;
      packer.Pack(bytes, 1, &packed);
      absl::string_view unpacked;
      ASSERT_TRUE(unpacker.Unpack(packed, bytes.size(), &unpacked).ok()) << i;
      ASSERT_TRUE(unpacked == bytes) << i;
    }
  }
}

TEST(ObservationPacker, SendsLittleWhenLittleChanges) {
  ObservationPacker packer(v1::PACKING_CODEC_CHANGES_LZ4);
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
