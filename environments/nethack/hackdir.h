#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sibyl::nethack {

// The folders in which this process's games play; shared by them and removed with the last one.
struct ProcessFolder;

// The folder in which one game keeps its files, on a file system in memory where there is one (/dev/shm, else TMPDIR,
// else /tmp). Removed with the object; what a killed process leaves behind, the next process that plays removes.
class HackDir {
 public:
  // `data`: path of nhdat.
  static absl::StatusOr<HackDir> Make(const std::string& data);

  HackDir() = default;
  HackDir(HackDir&& other) noexcept { *this = std::move(other); }
  HackDir& operator=(HackDir&& other) noexcept;
  ~HackDir();

  const std::string& path() const { return path_; }

  // Makes it what it was when new: a game sees nothing of the games before it.
  absl::Status Clear();

 private:
  std::shared_ptr<ProcessFolder> process_;
  std::string path_;
  std::string data_;
};

}  // namespace sibyl::nethack
