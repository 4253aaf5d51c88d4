#include "common/runtime/files.h"

#include <gtest/gtest.h>

#include "common/runtime/record_file.h"
#include "sibyl/v1/state.pb.h"
#include "tests/common/fake_files.h"

namespace sibyl {
namespace {

constexpr char kPath[] = "/run/state";

class Files : public testing::Test {
 protected:
  Files() {
    EXPECT_TRUE(files_.MakeFolders("/run").ok());
    EXPECT_TRUE(files_.SyncFolder("/").ok());
  }
  std::string Read() { return ReadFile(kPath, files_).value_or("none"); }

  FakeFiles files_;
};

TEST_F(Files, AWriteThatFailsAtAnyOperationLeavesTheOldBytesAndNoTemporary) {
  ASSERT_TRUE(WriteFileDurably(kPath, "old", files_).ok());
  const int64_t before = files_.operations();
  ASSERT_TRUE(WriteFileDurably(kPath, "old", files_).ok());
  const int64_t operations = files_.operations() - before;
  for (int64_t i = 1; i <= operations; ++i) {
    files_.FailOnce(files_.operations() + i);
    const absl::Status status = WriteFileDurably(kPath, "new", files_);
    files_.FailFrom(0);
    EXPECT_FALSE(status.ok()) << i;
    // Only a failure of the last operation, the folder's sync, comes after the rename.
    EXPECT_EQ(Read(), i == operations ? "new" : "old") << i;
    EXPECT_EQ(files_.List("/run")->size(), 1u) << i;
    ASSERT_TRUE(WriteFileDurably(kPath, "old", files_).ok());
  }
}

TEST_F(Files, AfterLostPowerAFileHoldsTheOldBytesOrTheNewOnes) {
  for (const bool names_kept : {false, true}) {
    for (int64_t i = 1; i <= 6; ++i) {
      ASSERT_TRUE(WriteFileDurably(kPath, "old", files_).ok());
      files_.FailFrom(files_.operations() + i);
      const absl::Status status = WriteFileDurably(kPath, "new", files_);
      files_.LosePower(names_kept);
      EXPECT_TRUE(Read() == "old" || Read() == "new") << i << ": " << Read();
      if (status.ok()) {
        EXPECT_EQ(Read(), "new") << i;
      }
      ASSERT_TRUE(RemoveLeftovers("/run", files_).ok());
      EXPECT_EQ(files_.List("/run")->size(), 1u);
    }
  }
}

TEST_F(Files, ErrorsNameThePathAndTheCause) {
  files_.FailFrom(files_.operations() + 1, absl::ResourceExhaustedError("No space left on device"));
  const absl::Status full = WriteFileDurably(kPath, "new", files_);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "cannot write /run/state.tmp: No space left on device");
  files_.FailFrom(0);
  ASSERT_TRUE(WriteFileDurably(kPath, "new", files_).ok());
  files_.FailReads(absl::UnavailableError("Input/output error"));
  EXPECT_EQ(ReadFile(kPath, files_).status().message(), "cannot read /run/state: Input/output error");
}

TEST_F(Files, TheRealOnesTellAFolderFromAMissingFile) {
  EXPECT_TRUE(absl::IsNotFound(ReadFile("/nowhere/at/all").status()));
  EXPECT_EQ(ReadFile("/proc").status().message(), "cannot read /proc: Is a directory");
}

TEST_F(Files, AMessageThatIsTooLargeIsRefusedAndTheOldFileStays) {
  v1::LearnerState state;
  state.set_run_id("a run");
  ASSERT_TRUE(WriteProtoDurably(kPath, state, files_).ok());
  state.set_random_state(std::string(100, 'x'));
  EXPECT_EQ(SerializeMessage(state, 50).status().code(), absl::StatusCode::kResourceExhausted);
  // Protobuf's own limit of 2 GiB, which SerializeAsString answers with an empty string.
  state.set_random_state(std::string((size_t{1} << 31) + 10, 'x'));
  const absl::Status status = WriteProtoDurably(kPath, state, files_);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  v1::LearnerState read;
  ASSERT_TRUE(ReadProto(kPath, &read, files_).ok());
  EXPECT_EQ(read.run_id(), "a run");
}

class Records : public Files {
 protected:
  absl::Status Write(const std::vector<std::string>& records) {
    auto writer = RecordWriter::Create(kPath, files_);
    if (!writer.ok()) return writer.status();
    for (const std::string& record : records) {
      if (auto status = (*writer)->Append(record); !status.ok()) return status;
    }
    if (auto status = (*writer)->Sync(); !status.ok()) return status;
    return (*writer)->Close();
  }
  // What can be read, and the status of the read that ended it.
  std::vector<std::string> ReadAll(absl::Status* status = nullptr, bool* torn = nullptr) {
    std::vector<std::string> records;
    auto reader = RecordReader::Open(kPath, files_);
    absl::Status end = reader.status();
    while (end.ok()) {
      std::string record;
      const absl::StatusOr<bool> there = (*reader)->Next(&record);
      end = there.status();
      if (!there.ok() || !*there) break;
      records.push_back(record);
    }
    if (status != nullptr) *status = end;
    if (torn != nullptr) *torn = reader.ok() && (*reader)->torn();
    return records;
  }
};

TEST_F(Records, ComeBackInOrder) {
  const std::vector<std::string> records = {"one", "", std::string(100'000, 'x'), "four"};
  ASSERT_TRUE(Write(records).ok());
  EXPECT_EQ(ReadAll(), records);
  auto more = RecordWriter::OpenForAppend(kPath, files_);
  ASSERT_TRUE((*more)->Append(absl::string_view("five")).ok());
  EXPECT_EQ(ReadAll().size(), 5u);
}

TEST_F(Records, EveryFlippedBitIsFound) {
  ASSERT_TRUE(Write({"some", "records"}).ok());
  const std::string good = Read();
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    files_.Damage(kPath, bad);
    absl::Status status;
    bool torn;
    const auto records = ReadAll(&status, &torn);
    EXPECT_TRUE(absl::IsDataLoss(status) || torn) << i;
    EXPECT_LT(records.size(), 2u) << i;
  }
}

TEST_F(Records, ATornEndIsTold) {
  ASSERT_TRUE(Write({"some", "records"}).ok());
  const std::string whole = Read();
  for (size_t length = 8; length < whole.size(); ++length) {
    files_.Damage(kPath, whole.substr(0, length));
    absl::Status status;
    bool torn;
    const auto records = ReadAll(&status, &torn);
    EXPECT_TRUE(status.ok()) << length;
    EXPECT_EQ(torn, length != 8 && length != 8 + 8 + 4) << length;
    EXPECT_EQ(records.size(), length >= 8 + 8 + 4 ? 1u : 0u) << length;
  }
}

TEST_F(Records, ARecordThatIsTooLargeIsRefused) {
  auto writer = RecordWriter::Create(kPath, files_);
  EXPECT_EQ((*writer)->Append(std::string(kMostRecordBytes + 1, 'x')).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(ReadAll().empty());
}

TEST_F(Records, AnotherFileIsNotTakenForOne) {
  ASSERT_TRUE(WriteFileDurably(kPath, "something else", files_).ok());
  absl::Status status;
  ReadAll(&status);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

}  // namespace
}  // namespace sibyl
