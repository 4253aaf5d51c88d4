#include "annotator/store/sqlite_connection.h"

#include "absl/strings/str_cat.h"

namespace sibyl::annotator {

std::string RecoveryAdvice(const std::string& path) {
  return absl::StrCat(
      "stop the annotator and restore a copy of the file, or get back what can be read with `sqlite3 ", path,
      " .recover | sqlite3 recovered.sqlite` and put recovered.sqlite in the place of the file, its -wal "
      "and its -shm");
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path,
                                                                         const std::string& vfs) {
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection(path));
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  if (sqlite3_open_v2(path.c_str(), &connection->db_, flags, vfs.empty() ? nullptr : vfs.c_str()) != SQLITE_OK) {
    return connection->Error("open");
  }
  sqlite3_extended_result_codes(connection->db_, 1);
  sqlite3_busy_timeout(connection->db_, 10'000);
  return connection;
}

SqliteConnection::~SqliteConnection() { Close().IgnoreError(); }

absl::Status SqliteConnection::Close() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  statements_.clear();
  if (db_ == nullptr) return absl::OkStatus();
  const int code = sqlite3_close(db_);
  if (code != SQLITE_OK) return Error("close");
  db_ = nullptr;
  return absl::OkStatus();
}

absl::Status SqliteConnection::Error(absl::string_view doing) const {
  const int code = sqlite3_extended_errcode(db_);
  const std::string what = absl::StrCat("label store ", path_, ": cannot ", doing, ": ", sqlite3_errmsg(db_), " (",
                                        sqlite3_errstr(code), "); ");
  switch (code & 0xff) {
    case SQLITE_NOTADB:
      return absl::FailedPreconditionError(absl::StrCat(
          what, "the file is no label store, or its beginning is damaged; give annotator.store another name, or ",
          RecoveryAdvice(path_)));
    case SQLITE_CORRUPT:
      return absl::DataLossError(absl::StrCat(what, "the file is damaged; ", RecoveryAdvice(path_)));
    case SQLITE_FULL:
      return absl::UnavailableError(absl::StrCat(what, "the disk is full; make room and start the annotator again"));
    case SQLITE_IOERR:
      return absl::UnavailableError(
          absl::StrCat(what, "the disk gives errors or is full; look at the system's log and at the free space"));
    default:
      return absl::UnavailableError(
          absl::StrCat(what, "check the permissions of the file and its folder, and the disk's space"));
  }
}

absl::Status SqliteConnection::Run(const std::string& sql) {
  return sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus() : Error("write");
}

absl::StatusOr<int64_t> SqliteConnection::Integer(const std::string& sql) {
  const absl::StatusOr<sqlite3_stmt*> statement = Prepare(sql);
  if (!statement.ok()) return statement.status();
  if (sqlite3_step(*statement) != SQLITE_ROW) return Error("read");
  const int64_t value = sqlite3_column_int64(*statement, 0);
  sqlite3_reset(*statement);
  return value;
}

absl::StatusOr<std::string> SqliteConnection::Text(const std::string& sql) {
  const absl::StatusOr<sqlite3_stmt*> statement = Prepare(sql);
  if (!statement.ok()) return statement.status();
  if (sqlite3_step(*statement) != SQLITE_ROW) return Error("read");
  std::string value = TextAt(*statement, 0);
  sqlite3_reset(*statement);
  return value;
}

absl::StatusOr<sqlite3_stmt*> SqliteConnection::Prepare(const std::string& sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr && sqlite3_prepare_v2(db_, sql.c_str(), -1, &statement, nullptr) != SQLITE_OK) {
    return Error("prepare");
  }
  sqlite3_reset(statement);
  return statement;
}

absl::Status SqliteConnection::Finish(sqlite3_stmt* statement) {
  const absl::Status status = sqlite3_step(statement) == SQLITE_DONE ? absl::OkStatus() : Error("write");
  sqlite3_reset(statement);
  return status;
}

void Bind(sqlite3_stmt* statement, int at, const std::string& text) {
  sqlite3_bind_text(statement, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
}
void Bind(sqlite3_stmt* statement, int at, int64_t value) { sqlite3_bind_int64(statement, at, value); }
void Bind(sqlite3_stmt* statement, int at, double value) { sqlite3_bind_double(statement, at, value); }
void BindBlob(sqlite3_stmt* statement, int at, const std::string& bytes) {
  sqlite3_bind_blob(statement, at, bytes.data(), static_cast<int>(bytes.size()), SQLITE_TRANSIENT);
}

std::string TextAt(sqlite3_stmt* row, int at) {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(row, at));
  return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(row, at));
}

std::string BlobAt(sqlite3_stmt* row, int at) {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(row, at));
  return bytes == nullptr ? "" : std::string(bytes, sqlite3_column_bytes(row, at));
}

}  // namespace sibyl::annotator
