#include "common/safetensors.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/runtime/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sibyl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest() : folder_(std::filesystem::temp_directory_path() / absl::StrCat("safetensors_test_", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~SafetensorsTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }

  // A file made of this header and these bytes.
  std::string File(const std::string& header, const std::string& data) const {
    const uint64_t length = header.size();
    std::ofstream(Path("made"), std::ios::binary)
        << std::string(reinterpret_cast<const char*>(&length), sizeof length) << header << data;
    return Path("made");
  }

  const std::filesystem::path folder_;
};

template <typename T>
absl::string_view View(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

TEST_F(SafetensorsTest, ReadsWhatItWrote) {
  const std::vector<uint8_t> u8 = {1, 2, 255}, flags = {1, 0};
  const std::vector<int16_t> i16 = {-3, 4};
  const std::vector<int32_t> i32 = {-70000};
  const std::vector<int64_t> i64 = {int64_t{1} << 40};
  const std::vector<float> f32 = {0.5f, -1.25f, 0, 1, 2, 3};
  const std::vector<NamedArray> arrays = {
      {"u8", ArrayType::kUint8, {3}, View(u8)},      {"flags", ArrayType::kBool, {2}, View(flags)},
      {"i16", ArrayType::kInt16, {2, 1}, View(i16)}, {"i32", ArrayType::kInt32, {}, View(i32)},
      {"i64", ArrayType::kInt64, {1}, View(i64)},    {"f32", ArrayType::kFloat32, {2, 3}, View(f32)},
      {"none", ArrayType::kFloat32, {0, 7}, ""}};
  ASSERT_TRUE(WriteSafetensors(Path("all"), arrays, {{"step", "17"}, {"goal", "\"win\"\n"}}).ok());
  const absl::StatusOr<Safetensors> read = ReadSafetensors(Path("all"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->metadata, (std::map<std::string, std::string>{{"step", "17"}, {"goal", "\"win\"\n"}}));
  ASSERT_EQ(read->arrays.size(), arrays.size());
  for (const NamedArray& written : arrays) {
    bool found = false;
    for (const NamedArray& array : read->arrays) {
      if (array.name != written.name) continue;
      found = true;
      EXPECT_EQ(array.type, written.type);
      EXPECT_EQ(array.shape, written.shape);
      EXPECT_EQ(array.bytes, written.bytes);
      EXPECT_EQ((array.bytes.data() - read->storage->data()) % ArrayTypeBytes(array.type), 0u) << array.name;
    }
    EXPECT_TRUE(found) << written.name;
  }
}

TEST_F(SafetensorsTest, PythonReadsWhatItWrote) {
  const std::vector<float> f32 = {0.5f, -1.25f};
  const std::vector<uint8_t> flags = {1, 0, 1};
  const std::vector<int64_t> i64 = {-5, 6, 7, 8};
  ASSERT_TRUE(WriteSafetensors(Path("file"),
                               {{"flags", ArrayType::kBool, {3}, View(flags)},
                                {"weights", ArrayType::kFloat32, {2}, View(f32)},
                                {"count", ArrayType::kInt64, {2, 2}, View(i64)},
                                {"empty", ArrayType::kInt16, {0}, ""}},
                               {{"version", "3"}})
                  .ok());
  std::ofstream(Path("check.py")) << R"(
import sys, numpy, safetensors, safetensors.numpy
with safetensors.safe_open(sys.argv[1], "numpy") as f:
    assert f.metadata() == {"version": "3"}, f.metadata()
a = safetensors.numpy.load_file(sys.argv[1])
assert a["flags"].dtype == bool and a["flags"].tolist() == [True, False, True], a
assert a["weights"].dtype == numpy.float32 and a["weights"].tolist() == [0.5, -1.25], a
assert a["count"].dtype == numpy.int64 and a["count"].tolist() == [[-5, 6], [7, 8]], a
assert a["empty"].shape == (0,) and len(a) == 4, a
safetensors.numpy.save_file({"b": a["count"], "a": a["flags"]}, sys.argv[2], {"from": "python"})
)";
  const std::string command = absl::StrCat(SIBYL_PYTHON, " ", Path("check.py"), " ", Path("file"), " ", Path("python"));
  ASSERT_EQ(std::system(command.c_str()), 0);

  const absl::StatusOr<Safetensors> read = ReadSafetensors(Path("python"));
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->arrays.size(), 2u);
  EXPECT_EQ(read->metadata.at("from"), "python");
  for (const NamedArray& array : read->arrays) {
    EXPECT_EQ(array.bytes, array.name == "b" ? View(i64) : View(flags)) << array.name;
  }
}

TEST_F(SafetensorsTest, RefusesBytesThatDoNotFitTheShape) {
  const absl::Status status = WriteSafetensors(Path("x"), {{"a", ArrayType::kInt32, {2}, "1234"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("`a`"), HasSubstr("[2]"), HasSubstr("4 bytes")));
  EXPECT_FALSE(std::filesystem::exists(Path("x")));
}

TEST_F(SafetensorsTest, RefusesTwoArraysOfOneName) {
  const NamedArray array = {"a", ArrayType::kUint8, {1}, "1"};
  EXPECT_EQ(WriteSafetensors(Path("x"), {array, array}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SafetensorsTest, NamesAFileThatIsNotThere) {
  const absl::Status status = ReadSafetensors(Path("nothing")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("nothing")));
}

TEST_F(SafetensorsTest, RefusesADamagedFileByName) {
  const std::string array = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  ASSERT_TRUE(ReadSafetensors(File("{" + array + "}", "1234")).ok());
  ASSERT_TRUE(ReadSafetensors(File("{}", "")).ok());
  const struct {
    std::string header, data;
  } damaged[] = {
      {"{" + array, "1234"},                                                                // no JSON
      {"[1]", ""},                                                                          // no object
      {"{" + array + "}", "123"},                                                           // cut short
      {"{" + array + "}", "12345"},                                                         // too long
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", "12345"},                // a gap
      {"{" + array + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", "12345"},  // an overlap
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}})", "1234"},                 // too small a shape
      {R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", "1234"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", ""},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", "1234"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,-4]}})", "1234"},
      {R"({"a":{"dtype":"U8","shape":"4","data_offsets":[0,4]}})", "1234"},
      {R"({"a":7})", ""},
      {R"({"__metadata__":{"a":7}})", ""},
  };
  for (const auto& [header, data] : damaged) {
    const absl::Status status = ReadSafetensors(File(header, data)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << header;
    EXPECT_THAT(std::string(status.message()), HasSubstr(Path("made"))) << header;
  }
  for (const std::string& bytes : {std::string("1234567"), std::string(8, '\xff')}) {
    std::ofstream(Path("short"), std::ios::binary) << bytes;
    EXPECT_EQ(ReadSafetensors(Path("short")).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(SafetensorsTest, NamesAnElementTypeItDoesNotKnow) {
  const absl::Status status =
      ReadSafetensors(File(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "1")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("F8_E4M3"), HasSubstr("`a`"), HasSubstr(Path("made"))));
}

}  // namespace
}  // namespace sibyl
