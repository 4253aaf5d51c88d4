#include "common/runtime/record_file.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

constexpr absl::string_view kMagic = "SIBYLREC";

struct Frame {
  uint32_t length;
  uint32_t crc;
};

uint32_t FrameCrc(uint32_t length, absl::string_view record) {
  return Crc32c(record, Crc32c({reinterpret_cast<const char*>(&length), sizeof length}));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordWriter>> RecordWriter::Create(const std::string& path, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.Create(path));
  SIBYL_RETURN_IF_ERROR(file->Append(kMagic));
  return std::unique_ptr<RecordWriter>(new RecordWriter(path, std::move(file)));
}

absl::StatusOr<std::unique_ptr<RecordWriter>> RecordWriter::OpenForAppend(const std::string& path, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.OpenForAppend(path));
  return std::unique_ptr<RecordWriter>(new RecordWriter(path, std::move(file)));
}

absl::Status RecordWriter::Append(absl::string_view record) {
  if (record.size() > kMostRecordBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path_, ": a record of ", record.size(), " bytes is too large; the most is ", kMostRecordBytes));
  }
  const uint32_t length = static_cast<uint32_t>(record.size());
  const Frame frame = {length, FrameCrc(length, record)};
  SIBYL_RETURN_IF_ERROR(file_->Append({reinterpret_cast<const char*>(&frame), sizeof frame}));
  bytes_ += sizeof frame + record.size();
  return file_->Append(record);
}

absl::Status RecordWriter::Append(const google::protobuf::Message& message) {
  SIBYL_ASSIGN_OR_RETURN(const std::string bytes, SerializeMessage(message, kMostRecordBytes));
  return Append(bytes);
}

absl::StatusOr<std::unique_ptr<RecordReader>> RecordReader::Open(const std::string& path, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, files.Open(path));
  char magic[kMagic.size()];
  SIBYL_ASSIGN_OR_RETURN(const size_t got, file->Read(magic, sizeof magic));
  if (absl::string_view(magic, got) != kMagic) {
    return absl::DataLossError(absl::StrCat(path, " is not a file of records, or is damaged at its beginning"));
  }
  std::unique_ptr<RecordReader> reader(new RecordReader(path, std::move(file)));
  reader->offset_ = sizeof magic;
  return reader;
}

absl::StatusOr<bool> RecordReader::Next(std::string* record) {
  Frame frame;
  SIBYL_ASSIGN_OR_RETURN(const size_t framed, file_->Read(reinterpret_cast<char*>(&frame), sizeof frame));
  torn_ = framed > 0 && framed < sizeof frame;
  if (framed < sizeof frame) return false;
  const auto damaged = [&] {
    return absl::DataLossError(absl::StrCat(path_, ": the record at byte ", offset_, " is damaged"));
  };
  if (frame.length > kMostRecordBytes) return damaged();
  record->resize(frame.length);
  SIBYL_ASSIGN_OR_RETURN(const size_t got, file_->Read(record->data(), record->size()));
  torn_ = got < record->size();
  if (torn_) return false;
  if (FrameCrc(frame.length, *record) != frame.crc) return damaged();
  offset_ += sizeof frame + record->size();
  return true;
}

absl::StatusOr<bool> RecordReader::Next(google::protobuf::Message* message) {
  std::string record;
  SIBYL_ASSIGN_OR_RETURN(const bool there, Next(&record));
  if (there && !message->ParseFromString(record)) {
    return absl::DataLossError(absl::StrCat(path_, ": a record is not a ", message->GetTypeName()));
  }
  return there;
}

}  // namespace sibyl
