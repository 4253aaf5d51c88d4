#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/runtime/file_system.h"
#include "google/protobuf/message.h"

namespace sibyl {

// Whole files, for those that are small: a state that can grow goes into records (record_file.h).

// What a file's name ends with while the file is being written. A process that is killed leaves such a file behind.
inline constexpr char kTemporarySuffix[] = ".tmp";

absl::StatusOr<std::string> ReadFile(const std::string& path, FileSystem& files = FileSystem::Real());

// Writes beside, syncs, renames over `path` and syncs the folder: after a crash at any instant the file holds the old
// bytes or the new ones. An error leaves the old file as it was. One writer of a path at a time.
absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes, FileSystem& files = FileSystem::Real());

// Writes and syncs a file in place of one that may be there. Not atomic: for files in a folder that is not in use yet.
absl::Status WriteNewFile(const std::string& path, absl::string_view bytes, FileSystem& files);

// Puts a file that was written and synced beside (`path` + kTemporarySuffix) in the place of `path`, and makes that
// durable. On an error the temporary file is removed.
absl::Status CommitTemporary(const std::string& path, FileSystem& files);

// Removes the temporary files that a killed process left in the folder. Call it before the folder's owner writes. OK
// where there is no such folder.
absl::Status RemoveLeftovers(const std::string& folder, FileSystem& files);

// A message in binary form, written as WriteFileDurably does. ResourceExhausted, with the file left as it was: the
// message is above Protobuf's limit of 2 GiB. Reading: DataLoss where the bytes are not such a message.
absl::Status WriteProtoDurably(const std::string& path, const google::protobuf::Message& message,
                               FileSystem& files = FileSystem::Real());
absl::Status ReadProto(const std::string& path, google::protobuf::Message* message,
                       FileSystem& files = FileSystem::Real());

// The message's bytes. ResourceExhausted: the message is above `most_bytes`, whose greatest value is 2 GiB - 1.
absl::StatusOr<std::string> SerializeMessage(const google::protobuf::Message& message, size_t most_bytes);

}  // namespace sibyl
