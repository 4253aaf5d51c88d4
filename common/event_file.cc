#include "common/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/crc32c.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

void PutLittleEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// TFRecord stores checksums rotated and offset, so that a checksum of bytes that hold checksums stays a good one.
uint32_t Masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace

absl::StatusOr<std::unique_ptr<EventFile>> EventFile::Create(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", folder, ": ", error.message()));
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  const absl::Time now = absl::Now();
  // TensorBoard takes files with "tfevents" in their name, and orders them by name.
  const std::string stem =
      absl::StrCat(folder, "/events.out.tfevents.", absl::ToUnixSeconds(now), ".", host, ".", getpid());
  std::string path;
  int fd = -1;
  for (int i = 0; i < 1000; ++i) {
    path = absl::StrCat(stem, ".", i);
    fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0 || errno != EEXIST) break;
  }
  if (fd < 0) return absl::UnavailableError(absl::StrCat("cannot make ", path, ": ", std::strerror(errno)));
  auto file = std::unique_ptr<EventFile>(new EventFile(path, fd));
  v1::Event first;
  first.set_wall_time(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
  first.set_file_version("brain.Event:2");
  SIBYL_RETURN_IF_ERROR(file->Append(first));
  return file;
}

EventFile::~EventFile() { close(fd_); }

absl::Status EventFile::Write(int64_t step, absl::Time time, absl::Span<const std::pair<std::string, double>> values) {
  v1::Event event;
  event.set_wall_time(absl::ToDoubleSeconds(time - absl::UnixEpoch()));
  event.set_step(step);
  for (const auto& [tag, value] : values) {
    auto* added = event.mutable_summary()->add_value();
    added->set_tag(tag);
    added->set_simple_value(static_cast<float>(value));
  }
  return Append(event);
}

// A TFRecord: length (8 bytes), its masked checksum (4), the bytes, their masked checksum (4), all little-endian.
absl::Status EventFile::Append(const v1::Event& event) {
  const std::string data = event.SerializeAsString();
  std::string record;
  PutLittleEndian(data.size(), 8, &record);
  PutLittleEndian(Masked(Crc32c(record)), 4, &record);
  record += data;
  PutLittleEndian(Masked(Crc32c(data)), 4, &record);
  absl::string_view rest = record;
  while (!rest.empty()) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written >= 0) {
      rest.remove_prefix(written);
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("cannot write ", path_, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace sibyl
