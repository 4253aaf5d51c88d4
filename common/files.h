#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace sibyl {

// Whole files. Errors name the path and the cause.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Writes beside, fsyncs, renames over `path` and fsyncs the folder: after a crash at any instant the file holds the old
// bytes or the new ones.
absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes);

// A message in binary form, written as above. Reading refuses bytes that are not such a message.
absl::Status WriteProtoDurably(const std::string& path, const google::protobuf::Message& message);
absl::Status ReadProto(const std::string& path, google::protobuf::Message* message);

}  // namespace sibyl
