#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/runtime/file_system.h"
#include "google/protobuf/message.h"

namespace sibyl {

// Files of records, for states that can grow: each record is bounded, and checked when it is read.
//
// The file begins with the 8 bytes "SIBYLREC". A record is its length (4 bytes, little-endian), a CRC-32C of the length
// and the bytes (4 bytes), and the bytes.

// Bytes of a record, at most.
inline constexpr size_t kMostRecordBytes = 64 << 20;

// Writes records. One thread.
class RecordWriter {
 public:
  // A new file, in place of one that may be there.
  static absl::StatusOr<std::unique_ptr<RecordWriter>> Create(const std::string& path, FileSystem& files);
  // Goes on behind the last record of a file that was read to its end without error. `torn` must be false there: a
  // torn end has to be rewritten without it first.
  static absl::StatusOr<std::unique_ptr<RecordWriter>> OpenForAppend(const std::string& path, FileSystem& files);

  // ResourceExhausted, with nothing written: the record is above kMostRecordBytes.
  absl::Status Append(absl::string_view record);
  absl::Status Append(const google::protobuf::Message& message);
  // The records so far are on the disk when it returns.
  absl::Status Sync() { return file_->Sync(); }
  absl::Status Close() { return file_->Close(); }
  // Bytes appended by this writer, what frames the records included.
  size_t bytes() const { return bytes_; }

 private:
  RecordWriter(std::string path, std::unique_ptr<WritableFile> file) : path_(std::move(path)), file_(std::move(file)) {}
  const std::string path_;
  const std::unique_ptr<WritableFile> file_;
  size_t bytes_ = 0;
};

// Reads records in their order. One thread.
class RecordReader {
 public:
  // DataLoss: the file is no file of records.
  static absl::StatusOr<std::unique_ptr<RecordReader>> Open(const std::string& path, FileSystem& files);

  // The next record; false at the end. DataLoss: the record is damaged; the message says where.
  absl::StatusOr<bool> Next(std::string* record);
  absl::StatusOr<bool> Next(google::protobuf::Message* message);
  // After Next gave false: the file ends in the middle of a record, as one does that was appended to when the power
  // failed. Whoever wrote the file whole takes this for damage.
  bool torn() const { return torn_; }

 private:
  RecordReader(std::string path, std::unique_ptr<ReadableFile> file) : path_(std::move(path)), file_(std::move(file)) {}
  const std::string path_;
  const std::unique_ptr<ReadableFile> file_;
  size_t offset_ = 0;
  bool torn_ = false;
};

}  // namespace sibyl
