#include "annotator/store/open_log.h"

#include "absl/strings/match.h"
#include "annotator/store/postgres_label_log.h"
#include "annotator/store/sqlite_label_log.h"

namespace sibyl::annotator {

bool IsPostgres(absl::string_view store) {
  return absl::StartsWith(store, "postgresql://") || absl::StartsWith(store, "postgres://");
}

absl::StatusOr<std::unique_ptr<LabelLog>> OpenLog(const LogOptions& options, const Host& host) {
  if (IsPostgres(options.store)) {
    PostgresLabelLogOptions postgres;
    postgres.url = options.store;
    postgres.judge = options.judge;
    postgres.run = options.run;
    postgres.capacity = options.capacity;
    return PostgresLabelLog::Open(postgres, host);
  }
  SqliteLabelLogOptions sqlite;
  sqlite.path = options.store;
  sqlite.judge = options.judge;
  sqlite.run = options.run;
  sqlite.capacity = options.capacity;
  sqlite.files = options.files;
  return SqliteLabelLog::Open(sqlite, host);
}

}  // namespace sibyl::annotator
