#include "annotator/store/postgres_connection.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

std::string WithoutPassword(const std::string& url) {
  const size_t scheme = url.find("://");
  const size_t host = scheme == std::string::npos ? 0 : scheme + 3;
  const size_t at = url.substr(0, url.find('/', host)).rfind('@');
  if (at == std::string::npos || at < host) return url;
  const size_t colon = url.find(':', host);
  return colon < at ? absl::StrCat(url.substr(0, colon), url.substr(at)) : url;
}

}  // namespace

std::string PostgresRows::Bytes(int row, int column) const {
  return absl::HexStringToBytes(absl::string_view(Text(row, column)).substr(2));  // "\x..."
}

PostgresValues& PostgresValues::Add(const std::string& text) {
  values_.push_back(text);
  std::string& value = values_.back();
  value.erase(std::remove(value.begin(), value.end(), '\0'), value.end());
  return *this;
}
PostgresValues& PostgresValues::Add(int64_t value) {
  values_.push_back(absl::StrCat(value));
  return *this;
}
PostgresValues& PostgresValues::Add(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  values_.emplace_back(text);
  return *this;
}
PostgresValues& PostgresValues::AddBytes(const std::string& bytes) {
  values_.push_back(absl::StrCat("\\x", absl::BytesToHexString(bytes)));
  return *this;
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Open(const std::string& url) {
  std::unique_ptr<PostgresConnection> made(new PostgresConnection(PQconnectdb(url.c_str()), WithoutPassword(url)));
  if (PQstatus(made->connection_.get()) != CONNECTION_OK) {
    std::string cause = PQerrorMessage(made->connection_.get());
    return absl::UnavailableError(absl::StrCat("label store ", made->shown_url_, ": ",
                                               absl::StripAsciiWhitespace(cause),
                                               "; check the address, the database and the user's rights"));
  }
  SIBYL_RETURN_IF_ERROR(made->Run("SET client_min_messages = warning; SET client_encoding = 'UTF8'"));
  return made;
}

absl::Status PostgresConnection::Error(PGresult* result) const {
  const std::string cause = result == nullptr ? PQerrorMessage(connection_.get()) : PQresultErrorMessage(result);
  return absl::UnavailableError(absl::StrCat("label store ", shown_url_, ": ", absl::StripAsciiWhitespace(cause),
                                             "; check the server and its disk's space"));
}

absl::Status PostgresConnection::Run(const std::string& sql) {
  const PostgresRows rows(PQexec(connection_.get(), sql.c_str()));
  PGresult* last = PQgetResult(connection_.get());
  if (last != nullptr) PQclear(last);
  if (PQstatus(connection_.get()) != CONNECTION_OK) return Error(nullptr);
  return rows.ok() ? absl::OkStatus() : Error(rows.get());
}

absl::StatusOr<PostgresRows> PostgresConnection::Query(const std::string& sql, const PostgresValues& values) {
  std::string& name = statements_[sql];
  if (name.empty()) {
    name = absl::StrCat("s", statements_.size());
    const PostgresRows prepared(PQprepare(connection_.get(), name.c_str(), sql.c_str(), 0, nullptr));
    if (!prepared.ok()) {
      const absl::Status error = Error(prepared.get());
      statements_.erase(sql);
      return error;
    }
  }
  std::vector<const char*> pointers;
  for (const std::string& value : values.values()) pointers.push_back(value.c_str());
  PostgresRows rows(PQexecPrepared(connection_.get(), name.c_str(), static_cast<int>(pointers.size()), pointers.data(),
                                   nullptr, nullptr, 0));
  if (!rows.ok()) return Error(rows.get());
  return rows;
}

}  // namespace sibyl::annotator
