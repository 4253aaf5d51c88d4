#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "sibyl/v1/event_file.pb.h"

namespace sibyl {

// Writes learning curves to a TensorBoard event file. One thread.
class EventFile {
 public:
  // Begins a new file in `folder`, and makes the folder where it is missing. Files of earlier processes stay:
  // TensorBoard shows all files of a folder as one. An error names the path.
  static absl::StatusOr<std::unique_ptr<EventFile>> Create(const std::string& folder);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // Appends values (tag, value) at an environment step. The kernel has the bytes when the call returns.
  absl::Status Write(int64_t step, absl::Time time, absl::Span<const std::pair<std::string, double>> values);

  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Append(const v1::Event& event);

  const std::string path_;
  const int fd_;
};

}  // namespace sibyl
