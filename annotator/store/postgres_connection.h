#pragma once

#include <libpq-fe.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sibyl::annotator {

// Rows that a statement gave. Columns count from 0.
class PostgresRows {
 public:
  explicit PostgresRows(PGresult* result) : result_(result, PQclear) {}
  bool ok() const {
    const ExecStatusType status = PQresultStatus(result_.get());
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
  }
  PGresult* get() const { return result_.get(); }
  int size() const { return PQntuples(result_.get()); }
  int64_t changed() const { return std::atoll(PQcmdTuples(result_.get())); }
  bool IsNull(int row, int column) const { return PQgetisnull(result_.get(), row, column) != 0; }
  // Empty for NULL.
  std::string Text(int row, int column) const {
    return {PQgetvalue(result_.get(), row, column), static_cast<size_t>(PQgetlength(result_.get(), row, column))};
  }
  int64_t Integer(int row, int column) const { return std::atoll(PQgetvalue(result_.get(), row, column)); }
  double Real(int row, int column) const { return std::atof(PQgetvalue(result_.get(), row, column)); }
  bool Bool(int row, int column) const { return PQgetvalue(result_.get(), row, column)[0] == 't'; }
  // A BYTEA.
  std::string Bytes(int row, int column) const;

 private:
  std::unique_ptr<PGresult, decltype(&PQclear)> result_;
};

// Parameters of a statement, $1 first.
class PostgresValues {
 public:
  PostgresValues& Add(const std::string& text);  // PostgreSQL keeps no zero bytes: they are left out
  PostgresValues& Add(int64_t value);
  PostgresValues& Add(double value);
  PostgresValues& AddBytes(const std::string& bytes);
  const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

// A connection to a PostgreSQL database, and its prepared statements. One thread at a time.
class PostgresConnection {
 public:
  // `url`: postgresql://..., or whatever else libpq takes. Unavailable names the server and the cause, never a
  // password.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Open(const std::string& url);

  // Runs statements without parameters.
  absl::Status Run(const std::string& sql);
  // Runs one statement, which is prepared when it is first used.
  absl::StatusOr<PostgresRows> Query(const std::string& sql, const PostgresValues& values = {});

  // Without a password.
  const std::string& shown_url() const { return shown_url_; }

 private:
  PostgresConnection(PGconn* connection, std::string shown_url)
      : connection_(connection, PQfinish), shown_url_(std::move(shown_url)) {}
  absl::Status Error(PGresult* result) const;

  std::unique_ptr<PGconn, decltype(&PQfinish)> connection_;
  const std::string shown_url_;
  absl::flat_hash_map<std::string, std::string> statements_;  // names by SQL
};

}  // namespace sibyl::annotator
