#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sibyl::annotator {

// How an operator gets labels back from a damaged store at `path`; a sentence for errors.
std::string RecoveryAdvice(const std::string& path);

// A connection to a SQLite file, and its prepared statements. One thread at a time.
class SqliteConnection {
 public:
  // `vfs`: SQLite's; "": the usual one.
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path, const std::string& vfs);
  ~SqliteConnection();

  // What just went wrong, with the file, the cause and the remedy. DataLoss: the file is damaged. FailedPrecondition:
  // it is no SQLite file. Unavailable: the disk.
  absl::Status Error(absl::string_view doing) const;

  // Runs statements that give no rows.
  absl::Status Run(const std::string& sql);

  // First column of the first row of a statement without parameters.
  absl::StatusOr<int64_t> Integer(const std::string& sql);
  absl::StatusOr<std::string> Text(const std::string& sql);

  // Ready to bind; kept for the next use of the same text.
  absl::StatusOr<sqlite3_stmt*> Prepare(const std::string& sql);

  // Runs a bound statement that gives no row.
  absl::Status Finish(sqlite3_stmt* statement);

  // Closes the connection, which tidies the write-ahead log away where it is the last one.
  absl::Status Close();

  int64_t last_id() const { return sqlite3_last_insert_rowid(db_); }
  int64_t changes() const { return sqlite3_changes64(db_); }

 private:
  explicit SqliteConnection(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  sqlite3* db_ = nullptr;
  absl::flat_hash_map<std::string, sqlite3_stmt*> statements_;
};

// Parameters count from 1.
void Bind(sqlite3_stmt* statement, int at, const std::string& text);
void Bind(sqlite3_stmt* statement, int at, int64_t value);
void Bind(sqlite3_stmt* statement, int at, double value);
void BindBlob(sqlite3_stmt* statement, int at, const std::string& bytes);

// Columns count from 0. Empty for NULL.
std::string TextAt(sqlite3_stmt* row, int at);
std::string BlobAt(sqlite3_stmt* row, int at);

}  // namespace sibyl::annotator
