#include "common/runtime/files.h"

#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace sibyl {

absl::Status WriteNewFile(const std::string& path, absl::string_view bytes, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.Create(path));
  SIBYL_RETURN_IF_ERROR(file->Append(bytes));
  SIBYL_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files.Open(path));
  constexpr size_t kPiece = 1 << 16;
  std::string bytes;
  for (;;) {
    const size_t had = bytes.size();
    bytes.resize(had + kPiece + had / 2);
    SIBYL_ASSIGN_OR_RETURN(const size_t got, file->Read(&bytes[had], bytes.size() - had));
    const bool end = got < bytes.size() - had;
    bytes.resize(had + got);
    if (end) return bytes;
  }
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes, FileSystem& files) {
  const std::string temporary = absl::StrCat(path, kTemporarySuffix);
  if (absl::Status status = WriteNewFile(temporary, bytes, files); !status.ok()) {
    files.Remove(temporary).IgnoreError();
    return status;
  }
  return CommitTemporary(path, files);
}

absl::Status CommitTemporary(const std::string& path, FileSystem& files) {
  const std::string temporary = absl::StrCat(path, kTemporarySuffix);
  if (absl::Status status = files.Rename(temporary, path); !status.ok()) {
    files.Remove(temporary).IgnoreError();
    return status;
  }
  return files.SyncFolder(ParentFolder(path));
}

absl::Status RemoveLeftovers(const std::string& folder, FileSystem& files) {
  const absl::StatusOr<std::vector<std::string>> names = files.List(folder);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  SIBYL_RETURN_IF_ERROR(names.status());
  for (const std::string& name : *names) {
    if (absl::EndsWith(name, kTemporarySuffix)) SIBYL_RETURN_IF_ERROR(files.Remove(absl::StrCat(folder, "/", name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SerializeMessage(const google::protobuf::Message& message, size_t most_bytes) {
  // ByteSizeLong and not SerializeAsString's result: above 2 GiB that gives an empty string.
  if (const size_t size = message.ByteSizeLong(); size > most_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("a ", message.GetTypeName(), " of ", size,
                                                     " bytes is too large to write; the most is ", most_bytes));
  }
  std::string bytes;
  if (!message.SerializeToString(&bytes)) {
    return absl::InternalError(absl::StrCat("a ", message.GetTypeName(), " cannot be serialized"));
  }
  return bytes;
}

absl::Status WriteProtoDurably(const std::string& path, const google::protobuf::Message& message, FileSystem& files) {
  const auto bytes = SerializeMessage(message, std::numeric_limits<int32_t>::max());
  if (!bytes.ok()) return absl::Status(bytes.status().code(), absl::StrCat(path, ": ", bytes.status().message()));
  return WriteFileDurably(path, *bytes, files);
}

absl::Status ReadProto(const std::string& path, google::protobuf::Message* message, FileSystem& files) {
  SIBYL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, files));
  if (!message->ParseFromString(bytes)) {
    return absl::DataLossError(absl::StrCat(path, " is not a ", message->GetTypeName(), "; the file is damaged"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl
