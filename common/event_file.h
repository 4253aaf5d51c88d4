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

// Learning curves, in the files that TensorBoard reads. One thread.
class EventFile {
 public:
  // Begins a new file in `folder`, which is made when absent. Files of earlier processes stay: TensorBoard shows all
  // of a folder's as one.
  static absl::StatusOr<std::unique_ptr<EventFile>> Create(const std::string& folder);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // Appends the values of curves (tag, value) at an environment step. The bytes are with the kernel when it returns.
  absl::Status Write(int64_t step, absl::Time time, absl::Span<const std::pair<std::string, double>> values);

  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Append(const v1::Event& event);

  const std::string path_;
  const int fd_;
};

}  // namespace sibyl
