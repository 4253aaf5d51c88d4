#include "common/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using testing::HasSubstr;

class EventFileTest : public testing::Test {
 protected:
  ~EventFileTest() override { std::filesystem::remove_all(folder_); }
  const std::string folder_ = testing::TempDir() + "event_file_test." + std::to_string(getpid());
};

// A reader from TFRecord's description: the records' bytes, or nothing when a checksum is wrong.
std::vector<std::string> Records(absl::string_view bytes) {
  const auto number = [&](size_t at, int size) {
    uint64_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
    return value;
  };
  const auto masked = [](absl::string_view data) {
    const uint32_t crc = Crc32c(data);
    return static_cast<uint32_t>(((crc >> 15) | (crc << 17)) + 0xa282ead8u);
  };
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t size = number(at, 8);
    if (number(at + 8, 4) != masked(bytes.substr(at, 8))) return {};
    const absl::string_view data = bytes.substr(at + 12, size);
    if (number(at + 12 + size, 4) != masked(data)) return {};
    records.emplace_back(data);
    at += 16 + size;
  }
  return records;
}

TEST(Crc32c, GivesTheVectorsOfTheStandard) {
  // RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending.push_back(static_cast<char>(i));
  EXPECT_EQ(Crc32c(ascending), 0x46dd794eu);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST_F(EventFileTest, HoldsWhatWasWritten) {
  const auto file = EventFile::Create(folder_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->path(), HasSubstr("tfevents"));
  ASSERT_TRUE((*file)->Write(512, absl::FromUnixSeconds(1700000000), {{"episode/return", 0.5}, {"loss", -2}}).ok());
  ASSERT_TRUE((*file)->Write(1024, absl::FromUnixSeconds(1700000001), {}).ok());

  const auto records = Records(*ReadFile((*file)->path()));
  ASSERT_EQ(records.size(), 3u);
  v1::Event event;
  ASSERT_TRUE(event.ParseFromString(records[0]));
  EXPECT_EQ(event.file_version(), "brain.Event:2");
  ASSERT_TRUE(event.ParseFromString(records[1]));
  EXPECT_EQ(event.step(), 512);
  EXPECT_EQ(event.wall_time(), 1700000000.0);
  ASSERT_EQ(event.summary().value_size(), 2);
  EXPECT_EQ(event.summary().value(0).tag(), "episode/return");
  EXPECT_EQ(event.summary().value(0).simple_value(), 0.5f);
  EXPECT_EQ(event.summary().value(1).simple_value(), -2.0f);
}

TEST_F(EventFileTest, BeginsAnotherFileBesideThoseOfEarlierProcesses) {
  const auto first = EventFile::Create(folder_), second = EventFile::Create(folder_);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE((*first)->path(), (*second)->path());
}

TEST_F(EventFileTest, NamesTheFolderThatCannotBeMade) {
  std::filesystem::create_directories(folder_);
  ASSERT_TRUE(WriteFileDurably(folder_ + "/file", "").ok());
  EXPECT_THAT(EventFile::Create(folder_ + "/file").status().ToString(), HasSubstr(folder_ + "/file"));
}

// Python knows nothing of our code: it reads the record's frame and the message's wire format by hand.
TEST_F(EventFileTest, IsReadByAnotherReader) {
  const auto file = EventFile::Create(folder_);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Write(300, absl::FromUnixSeconds(1700000000), {{"success", 0.25}}).ok());
  const std::string script = folder_ + "/read.py";
  ASSERT_TRUE(WriteFileDurably(script, R"(
import struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xa282ead8) & 0xffffffff
data = open(sys.argv[1], 'rb').read()
records = []
while data:
    size, = struct.unpack('<Q', data[:8])
    assert struct.unpack('<I', data[8:12])[0] == masked(data[:8])
    records.append(data[12:12 + size])
    assert struct.unpack('<I', data[12 + size:16 + size])[0] == masked(records[-1])
    data = data[16 + size:]
# field 1 double wall time; field 2 varint step; field 5 summary { field 1 value { 1 tag; 2 float } }
value = b'\x0a\x07success' + b'\x15' + struct.pack('<f', 0.25)
summary = b'\x0a' + bytes([len(value)]) + value
assert records[0].endswith(b'\x1a\x0dbrain.Event:2'), records[0]
assert records[1] == (b'\x09' + struct.pack('<d', 1700000000.0) + b'\x10\xac\x02' +
                      b'\x2a' + bytes([len(summary)]) + summary), records[1]
assert len(records) == 2
)")
                  .ok());
  EXPECT_EQ(std::system(absl::StrCat(SIBYL_PYTHON, " ", script, " ", (*file)->path()).c_str()), 0);
}

}  // namespace
}  // namespace sibyl
