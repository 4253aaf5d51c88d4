#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "annotator/store/sqlite_connection.h"
#include "common/runtime/file_system.h"

// The SQLite file under a label log: its tables, how a new file is made, how an old one is checked and migrated. The
// tables are described in sqlite_store.cc.

namespace sibyl::annotator {

// The version of the tables that this build reads and writes. Versions 1 and 2 are migrated.
inline constexpr int kStoreVersion = 3;

// Opens the store at `path` and leaves it in WAL mode with synchronous=EXTRA. A new store is made beside and renamed,
// so that a file of that name is never a store in the making. `known_log_id` is the log that had labels here before
// (empty: none); where it is not empty and the file is absent, the labels are lost and nothing is made.
// FailedPrecondition: another version, no label store, or the file is gone. DataLoss: the file is empty or damaged.
// Unavailable: the file cannot be read or written. Each names the file and the remedy.
absl::StatusOr<std::unique_ptr<SqliteConnection>> OpenStore(const std::string& path, const std::string& vfs,
                                                            const std::string& known_log_id, FileSystem& files);

// A random identity for a log.
std::string NewLogId();

}  // namespace sibyl::annotator
