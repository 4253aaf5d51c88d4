#include "environments/nethack/hackdir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace sibyl::nethack {

// One folder a process, named after its process id for people. Its owner holds a lock on it (flock), which the system
// lets go when the process dies in whatever way: so what can be locked is left over. A process id would not do: the
// parent folder may be shared by containers that each count their own.
struct ProcessFolder {
  std::string path;
  int lock = -1;
  std::atomic<uint64_t> games{0};  // names given to hackdirs so far

  ~ProcessFolder() {
    std::error_code ignored;
    if (path.empty()) return;
    std::filesystem::remove_all(path, ignored);
    close(lock);
    rmdir(std::filesystem::path(path).parent_path().c_str());  // stays while another process plays
  }
};

namespace {

namespace fs = std::filesystem;

absl::Status ErrnoError(absl::string_view doing, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("nethack: cannot ", doing, " ", path, ": ", std::strerror(errno),
                                             "; games need a writable folder: /dev/shm, TMPDIR or /tmp"));
}

std::string TemporaryFolder() {
  if (access("/dev/shm", W_OK | X_OK) == 0) return "/dev/shm";
  const char* chosen = std::getenv("TMPDIR");
  return chosen != nullptr && *chosen != '\0' ? chosen : "/tmp";
}

// Opens and locks a folder; -1 where it is gone or somebody else's.
int LockFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  struct stat locked, named;
  // Between open and flock another process may have found it unlocked and removed it.
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &locked) == 0 && stat(path.c_str(), &named) == 0 &&
      locked.st_ino == named.st_ino && locked.st_dev == named.st_dev) {
    return fd;
  }
  close(fd);
  return -1;
}

// Removes the folders of processes that are gone.
void Sweep(const std::string& parent) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const int lock = LockFolder(entry.path());
    if (lock < 0) continue;
    fs::remove_all(entry.path(), ignored);
    close(lock);
  }
}

absl::StatusOr<std::shared_ptr<ProcessFolder>> MakeProcessFolder() {
  const std::string parent = absl::StrCat(TemporaryFolder(), "/sibyl-nethack-", getuid());
  auto folder = std::make_shared<ProcessFolder>();
  // Other processes that start or end just now may remove the parent, or what is not locked yet: then once more.
  while (folder->lock < 0) {
    if (mkdir(parent.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make", parent);
    struct stat info;
    if (lstat(parent.c_str(), &info) != 0) {
      if (errno == ENOENT) continue;
      return ErrnoError("read", parent);
    }
    if (!S_ISDIR(info.st_mode) || info.st_uid != getuid()) {
      return absl::FailedPreconditionError(
          absl::StrCat("nethack: ", parent, " is not a folder of this user; remove it"));
    }
    Sweep(parent);
    const std::string path = absl::StrFormat("%s/%d-%08x", parent, getpid(), FreshRandom64() >> 32);
    if (mkdir(path.c_str(), 0700) != 0) {
      if (errno == EEXIST || errno == ENOENT) continue;
      return ErrnoError("make", path);
    }
    folder->lock = LockFolder(path);
    if (folder->lock >= 0) folder->path = path;
  }
  return folder;
}

absl::StatusOr<std::shared_ptr<ProcessFolder>> SharedProcessFolder() {
  static std::mutex mutex;
  static auto& current = *new std::weak_ptr<ProcessFolder>();
  static pid_t owner = 0;  // a forked child must not play in its parent's folder
  const std::lock_guard<std::mutex> hold(mutex);
  std::shared_ptr<ProcessFolder> folder = owner == getpid() ? current.lock() : nullptr;
  if (folder == nullptr) {
    SIBYL_ASSIGN_OR_RETURN(folder, MakeProcessFolder());
    current = folder;
    owner = getpid();
  }
  return folder;
}

}  // namespace

absl::StatusOr<HackDir> HackDir::Make(const std::string& data) {
  HackDir dir;
  SIBYL_ASSIGN_OR_RETURN(dir.process_, SharedProcessFolder());
  const std::string path = absl::StrCat(dir.process_->path, "/", dir.process_->games++);
  if (mkdir(path.c_str(), 0700) != 0) return ErrnoError("make", path);
  dir.path_ = path;
  dir.data_ = fs::absolute(data);
  SIBYL_RETURN_IF_ERROR(dir.Clear());
  return dir;
}

HackDir& HackDir::operator=(HackDir&& other) noexcept {
  std::swap(process_, other.process_);
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  return *this;
}

HackDir::~HackDir() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

absl::Status HackDir::Clear() {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    std::error_code ignored;
    fs::remove_all(entry.path(), ignored);
  }
  if (error) {
    errno = error.value();
    return ErrnoError("read", path_);
  }
  const std::string link = path_ + "/nhdat", save = path_ + "/save";
  if (symlink(data_.c_str(), link.c_str()) != 0) return ErrnoError("make", link);
  for (const char* name : {"perm", "record", "logfile", "xlogfile"}) {
    const std::string file = absl::StrCat(path_, "/", name);
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return ErrnoError("make", file);
    close(fd);
  }
  if (mkdir(save.c_str(), 0700) != 0) return ErrnoError("make", save);
  return absl::OkStatus();
}

}  // namespace sibyl::nethack
