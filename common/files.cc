#include "common/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

absl::Status ErrnoStatus(absl::string_view doing, const std::string& path) {
  const int error = errno;
  const std::string text = absl::StrCat("cannot ", doing, " ", path, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

absl::Status SyncFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open", folder);
  const int synced = fsync(fd);
  const absl::Status status = synced == 0 ? absl::OkStatus() : ErrnoStatus("sync", folder);
  close(fd);
  return status;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoStatus("read", path);
  std::ostringstream bytes;
  if (file.peek() != std::ifstream::traits_type::eof()) bytes << file.rdbuf();
  if (file.bad() || bytes.fail()) {
    errno = EISDIR;
    return ErrnoStatus("read", path);
  }
  return std::move(bytes).str();
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus("write", temporary);
  absl::Status status;
  while (status.ok() && !bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(n);
    } else if (errno != EINTR) {
      status = ErrnoStatus("write", temporary);
    }
  }
  if (status.ok() && fsync(fd) != 0) status = ErrnoStatus("sync", temporary);
  close(fd);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = ErrnoStatus("rename to", path);
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncFolder(path);
}

absl::Status WriteProtoDurably(const std::string& path, const google::protobuf::Message& message) {
  return WriteFileDurably(path, message.SerializeAsString());
}

absl::Status ReadProto(const std::string& path, google::protobuf::Message* message) {
  SIBYL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  if (!message->ParseFromString(bytes)) {
    return absl::DataLossError(absl::StrCat(path, " is not a ", message->GetTypeName(), "; it is damaged"));
  }
  return absl::OkStatus();
}

}  // namespace sibyl
