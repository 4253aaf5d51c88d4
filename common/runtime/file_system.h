#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sibyl {

// A file that is being written. One thread. The destructor closes the file and drops what Close would have reported.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(absl::string_view bytes) = 0;
  // What was appended is on the disk when it returns.
  virtual absl::Status Sync() = 0;
  // Call last. Reports what the system finds out only now (a network file system's full disk).
  virtual absl::Status Close() = 0;
};

// A file that is read from its beginning. One thread.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Reads up to `count` bytes; fewer only at the file's end.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t count) = 0;
};

// The files of this machine, so that a test can put a full or dying disk in their place (tests/common/fake_files.h).
// Any thread. Errors name the path and the cause. NotFound: there is no such file or folder; ResourceExhausted: the
// disk or a quota is full; Unavailable: any other cause.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) = 0;
  // An empty file, in place of one that may be there.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  // Writes behind the end of the file; makes the file where there is none.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) = 0;
  // Replaces `to` at one instant where both are files. Where `from` is a folder, `to` must be absent or an empty
  // folder.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Removes a file, or a folder with all that it holds. OK where there is none.
  virtual absl::Status Remove(const std::string& path) = 0;
  // Makes the folder, and those that it lies in. OK where it is there.
  virtual absl::Status MakeFolders(const std::string& path) = 0;
  // Names in the folder, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) = 0;
  virtual bool Exists(const std::string& path) = 0;
  // Makes creations, renames and removals in the folder survive a loss of power.
  virtual absl::Status SyncFolder(const std::string& folder) = 0;

  // The machine's own. Lives for ever.
  static FileSystem& Real();
};

// The folder that a path lies in: "." where the path names none.
std::string ParentFolder(const std::string& path);

}  // namespace sibyl
