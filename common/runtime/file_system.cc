#include "common/runtime/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace sibyl {
namespace {

absl::Status ErrnoStatus(int error, absl::string_view doing, const std::string& path) {
  const std::string text = absl::StrCat("cannot ", doing, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

class RealWritableFile : public WritableFile {
 public:
  RealWritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~RealWritableFile() override {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Append(absl::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = write(fd_, bytes.data(), bytes.size());
      if (n >= 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
      } else if (errno != EINTR) {
        return ErrnoStatus(errno, "write", path_);
      }
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override { return fsync(fd_) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "sync", path_); }
  absl::Status Close() override {
    const int fd = std::exchange(fd_, -1);
    return close(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "close", path_);
  }

 private:
  int fd_;
  const std::string path_;
};

class RealReadableFile : public ReadableFile {
 public:
  RealReadableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~RealReadableFile() override { close(fd_); }

  absl::StatusOr<size_t> Read(char* buffer, size_t count) override {
    size_t got = 0;
    while (got < count) {
      const ssize_t n = read(fd_, buffer + got, count - got);
      if (n == 0) break;
      if (n > 0) {
        got += static_cast<size_t>(n);
      } else if (errno != EINTR) {
        return ErrnoStatus(errno, "read", path_);
      }
    }
    return got;
  }

 private:
  const int fd_;
  const std::string path_;
};

class RealFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "read", path);
    return std::make_unique<RealReadableFile>(fd, path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    return OpenToWrite(path, O_TRUNC);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    return OpenToWrite(path, O_APPEND);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("rename ", from, " to"), to);
  }
  absl::Status Remove(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    return error ? ErrnoStatus(error.value(), "remove", path) : absl::OkStatus();
  }
  absl::Status MakeFolders(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    return error ? ErrnoStatus(error.value(), "make the folder", path) : absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    DIR* dir = opendir(folder.c_str());
    if (dir == nullptr) return ErrnoStatus(errno, "list", folder);
    std::vector<std::string> names;
    int error;
    for (;;) {
      errno = 0;
      const dirent* entry = readdir(dir);
      error = errno;
      if (entry == nullptr) break;
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(dir);
    if (error != 0) return ErrnoStatus(error, "list", folder);
    std::sort(names.begin(), names.end());
    return names;
  }
  bool Exists(const std::string& path) override {
    struct stat unused;
    return stat(path.c_str(), &unused) == 0;
  }
  absl::Status SyncFolder(const std::string& folder) override {
    const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "open", folder);
    const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "sync", folder);
    close(fd);
    return status;
  }

 private:
  static absl::StatusOr<std::unique_ptr<WritableFile>> OpenToWrite(const std::string& path, int how) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | how, 0644);
    if (fd < 0) return ErrnoStatus(errno, "write", path);
    return std::make_unique<RealWritableFile>(fd, path);
  }
};

}  // namespace

FileSystem& FileSystem::Real() {
  static auto& files = *new RealFileSystem();
  return files;
}

std::string ParentFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace sibyl
