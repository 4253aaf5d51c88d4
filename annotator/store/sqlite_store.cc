#include "annotator/store/sqlite_store.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "annotator/questions/canonical.h"
#include "common/log.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

// "Sibl": tells a label store from any other SQLite file.
constexpr int kApplicationId = 0x5369626c;

constexpr char kSchema[] = R"sql(
CREATE TABLE log(
  log_id TEXT NOT NULL                      -- identity of the log; one row
) STRICT;
CREATE TABLE queries(
  id INTEGER PRIMARY KEY,                   -- in order of acceptance
  key BLOB NOT NULL UNIQUE,                 -- QueryKey: 32 bytes
  judge TEXT NOT NULL,                      -- JudgeIdentity
  version_1_judge TEXT,                     -- of a query from version 1 whose key is still that version's; else NULL
  kind TEXT NOT NULL,
  texts TEXT NOT NULL,                      -- TextsJson
  goal TEXT NOT NULL,
  grammar TEXT NOT NULL,                    -- GrammarJson
  priority REAL NOT NULL,
  accepted_unix_micros INTEGER NOT NULL,
  waits INTEGER NOT NULL,                   -- 1: for an answer
  attempts INTEGER NOT NULL,                -- attempts that ended
  sequence INTEGER,                         -- of the last one; NULL: none ended
  ask_again_unix_micros INTEGER,            -- the last one failed, and the query may be asked again then; else NULL
  overridden INTEGER NOT NULL DEFAULT 0     -- 1: the last one is a person's label
) STRICT;
CREATE INDEX waiting ON queries(judge, id) WHERE waits = 1;
CREATE INDEX failed ON queries(judge, ask_again_unix_micros) WHERE ask_again_unix_micros IS NOT NULL;
CREATE INDEX version_1 ON queries(version_1_judge, id) WHERE version_1_judge IS NOT NULL;
CREATE TABLE attempts(
  sequence INTEGER PRIMARY KEY,             -- place in the log, from 1, without gaps
  query INTEGER NOT NULL REFERENCES queries(id),
  attempt INTEGER NOT NULL,                 -- of this query, from 1
  outcome INTEGER NOT NULL,                 -- sibyl.v1.Outcome
  answer TEXT NOT NULL,                     -- AnswerJson; empty unless answered
  judge TEXT NOT NULL,
  prompt TEXT NOT NULL,
  raw TEXT NOT NULL,                        -- what the judge said, word for word
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  committed_unix_micros INTEGER NOT NULL,
  cost REAL NOT NULL DEFAULT 0,             -- of this attempt's requests
  reason TEXT NOT NULL DEFAULT '',          -- why there is no answer
  run TEXT NOT NULL DEFAULT '',             -- name of the run's folder
  overridden_by TEXT NOT NULL DEFAULT '',   -- who gave this label in the judge's place; empty: the judge gave it
  UNIQUE(query, attempt)
) STRICT;
)sql";

// What version 3 has beside the tables that version 2 had.
constexpr char kSchema3[] = R"sql(
CREATE TABLE spending(                      -- what requests to servers took, failed ones and probes too
  day INTEGER NOT NULL,                     -- since 1970, UTC
  endpoint TEXT NOT NULL,                   -- host and port
  model TEXT NOT NULL,
  goal TEXT NOT NULL,                       -- empty: of probes
  run TEXT NOT NULL,
  requests INTEGER NOT NULL,
  failed_requests INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cost REAL NOT NULL,
  PRIMARY KEY(day, endpoint, model, goal, run)
) STRICT;
CREATE TABLE served(                        -- what a judge's server said of itself when it was last heard
  judge TEXT PRIMARY KEY,                   -- JudgeIdentity
  served TEXT NOT NULL
) STRICT;
CREATE VIEW labels AS                       -- the last attempt at each query, to be read
SELECT a.sequence, q.id AS query, q.kind, json_extract(q.texts, '$.caption') AS caption, q.texts, q.goal,
  CASE a.outcome WHEN 1 THEN 'answered' WHEN 2 THEN 'abstained' WHEN 3 THEN 'unparsable' ELSE 'failed' END AS outcome,
  (SELECT json_extract(q.grammar, '$.choice[' || d.key || ']') FROM json_each(nullif(a.answer, ''), '$.distribution') d
    ORDER BY d.value DESC, d.key LIMIT 1) AS label,
  (SELECT max(d.value) FROM json_each(nullif(a.answer, ''), '$.distribution') d) AS probability,
  a.judge, a.prompt, a.attempt, a.prompt_tokens, a.completion_tokens, a.cost, a.reason, a.run, a.overridden_by, a.raw,
  datetime(a.committed_unix_micros / 1000000, 'unixepoch') AS committed
FROM queries q JOIN attempts a ON a.sequence = q.sequence;
)sql";

// A file system's error, with what it means for the store.
absl::Status FileError(const std::string& path, const absl::Status& status) {
  return absl::Status(
      status.code(),
      absl::StrCat("label store ", path, ": ", status.message(),
                   "; annotator.store must lie in a folder that exists and can be written, on a disk with "
                   "space left"));
}

absl::Status CreateStore(const std::string& path, const std::string& vfs, FileSystem& files) {
  const std::string beside = path + ".new";
  for (const char* leftover : {"", "-journal", "-wal", "-shm"}) {
    if (const absl::Status removed = files.Remove(beside + leftover); !removed.ok()) return FileError(path, removed);
  }
  SIBYL_ASSIGN_OR_RETURN(auto store, SqliteConnection::Open(beside, vfs));
  SIBYL_RETURN_IF_ERROR(store->Run("PRAGMA synchronous=EXTRA"));
  SIBYL_RETURN_IF_ERROR(store->Run(absl::StrCat("BEGIN IMMEDIATE;", kSchema, kSchema3, "INSERT INTO log VALUES('",
                                                NewLogId(), "'); PRAGMA application_id=", kApplicationId,
                                                "; PRAGMA user_version=", kStoreVersion, "; COMMIT;")));
  SIBYL_RETURN_IF_ERROR(store->Close());
  absl::Status named = files.Rename(beside, path);
  if (named.ok()) named = files.SyncFolder(ParentFolder(path));
  return named.ok() ? named : FileError(path, named);
}

bool IsEmpty(const std::string& path, FileSystem& files) {
  const auto file = files.Open(path);
  char byte = 0;
  return file.ok() && (*file)->Read(&byte, 1).value_or(1) == 0;
}

absl::Status Damaged(const std::string& path, absl::string_view how) {
  return absl::DataLossError(absl::StrCat("label store ", path, " is damaged: ", how, "; ", RecoveryAdvice(path)));
}

// Whether the file is a sound label store; gives its version.
absl::StatusOr<int64_t> CheckStore(SqliteConnection& store, const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const int64_t application, store.Integer("PRAGMA application_id"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t version, store.Integer("PRAGMA user_version"));
  if (application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is a SQLite file but no label store; give annotator.store another name"));
  }
  if (version < 1 || version > kStoreVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("label store ", path, " has version ", version, ", this annotator reads versions 1 to ",
                     kStoreVersion, "; use the build that wrote it, or give this one another annotator.store"));
  }
  SIBYL_ASSIGN_OR_RETURN(const std::string check, store.Text("PRAGMA quick_check(1)"));
  if (check != "ok") return Damaged(path, check);
  return version;
}

// One row of version 1's queries, as version 2 keeps it.
absl::Status MigrateQuery(SqliteConnection& store, sqlite3_stmt* row) {
  google::protobuf::Map<std::string, std::string> texts;
  v1::Grammar grammar;
  const bool compares = sqlite3_column_int(row, 3) == 2;  // version 1's QUERY_KIND_COMPARE
  texts[compares ? "first" : "caption"] = TextAt(row, 4);
  if (compares) texts["second"] = TextAt(row, 5);
  for (absl::string_view label : absl::StrSplit(TextAt(row, 7), '\n')) {
    grammar.mutable_choice()->add_labels(std::string(label));
  }
  if (std::string context = TextAt(row, 8); !context.empty()) texts["context"] = std::move(context);
  const bool waits = sqlite3_column_type(row, 11) == SQLITE_NULL;
  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * insert,
      store.Prepare("INSERT INTO queries(id, key, judge, version_1_judge, kind, texts, goal, grammar, priority, "
                    "accepted_unix_micros, waits, attempts, sequence) "
                    "VALUES(?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0))"));
  Bind(insert, 1, int64_t{sqlite3_column_int64(row, 0)});
  sqlite3_bind_value(insert, 2, sqlite3_column_value(row, 1));
  Bind(insert, 3, TextAt(row, 2));
  Bind(insert, 4, std::string(compares ? "compare" : "classify"));
  Bind(insert, 5, TextsJson(texts));
  Bind(insert, 6, TextAt(row, 6));
  Bind(insert, 7, GrammarJson(grammar));
  Bind(insert, 8, sqlite3_column_double(row, 9));
  Bind(insert, 9, int64_t{sqlite3_column_int64(row, 10)});
  Bind(insert, 10, int64_t{waits});
  Bind(insert, 11, int64_t{!waits});
  Bind(insert, 12, int64_t{sqlite3_column_int64(row, 11)});
  return store.Finish(insert);
}

// One row of version 1's labels, as version 2 keeps it.
absl::Status MigrateLabel(SqliteConnection& store, sqlite3_stmt* row) {
  v1::Answer answer;
  for (absl::string_view probability : absl::StrSplit(TextAt(row, 3), ' ', absl::SkipEmpty())) {
    float value = 0;
    if (absl::SimpleAtof(probability, &value)) answer.mutable_choice()->add_distribution(value);
  }
  if (answer.has_choice()) answer.mutable_choice()->set_outside(static_cast<float>(sqlite3_column_double(row, 4)));
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * insert,
                         store.Prepare("INSERT INTO attempts(sequence, query, attempt, outcome, answer, judge, prompt, "
                                       "raw, prompt_tokens, completion_tokens, committed_unix_micros) "
                                       "VALUES(?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?)"));
  Bind(insert, 1, int64_t{sqlite3_column_int64(row, 0)});
  Bind(insert, 2, int64_t{sqlite3_column_int64(row, 1)});
  Bind(insert, 3, int64_t{sqlite3_column_int64(row, 2)});
  Bind(insert, 4, AnswerJson(answer));
  for (int column = 5; column <= 10; ++column) sqlite3_bind_value(insert, column, sqlite3_column_value(row, column));
  return store.Finish(insert);
}

absl::Status ForEachRow(SqliteConnection& store, const std::string& sql,
                        absl::Status (*migrate)(SqliteConnection&, sqlite3_stmt*)) {
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows, store.Prepare(sql));
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) SIBYL_RETURN_IF_ERROR(migrate(store, rows));
  const absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : store.Error("read");
  sqlite3_reset(rows);
  return status;
}

// Version 1 kept captions and label sets in columns of their own and one label a query. In one transaction. The keys
// stay version 1's, since only a query's own judge can make the new ones (SqliteLabelLog does).
absl::Status MigrateFrom1(SqliteConnection& store) {
  SIBYL_RETURN_IF_ERROR(
      store.Run(absl::StrCat("BEGIN IMMEDIATE; DROP INDEX waiting; ALTER TABLE queries RENAME TO queries_1; "
                             "ALTER TABLE labels RENAME TO labels_1;",
                             kSchema, kSchema3, "INSERT INTO log VALUES('", NewLogId(), "');")));
  SIBYL_RETURN_IF_ERROR(ForEachRow(store,
                                   "SELECT id, key, judge_identity, kind, caption, second_caption, goal, label_set, "
                                   "context, priority, accepted_unix_micros, sequence FROM queries_1 ORDER BY id",
                                   MigrateQuery));
  SIBYL_RETURN_IF_ERROR(ForEachRow(store,
                                   "SELECT sequence, query, outcome, distribution, outside, judge, prompt, raw, "
                                   "prompt_tokens, completion_tokens, committed_unix_micros FROM labels_1 "
                                   "ORDER BY sequence",
                                   MigrateLabel));
  // What failed under version 1 may be asked again at once.
  SIBYL_RETURN_IF_ERROR(
      store.Run(absl::StrCat("UPDATE queries SET ask_again_unix_micros = accepted_unix_micros WHERE sequence IN "
                             "(SELECT sequence FROM attempts WHERE outcome = ",
                             int{v1::OUTCOME_FAILED}, ")")));
  return store.Run("DROP TABLE labels_1; DROP TABLE queries_1; PRAGMA user_version=3; COMMIT;");
}

// Version 2 knew no cost, reasons, runs and overrides. In one transaction.
absl::Status MigrateFrom2(SqliteConnection& store) {
  return store.Run(absl::StrCat(
      "BEGIN IMMEDIATE;"
      "ALTER TABLE queries ADD COLUMN overridden INTEGER NOT NULL DEFAULT 0;"
      "ALTER TABLE attempts ADD COLUMN cost REAL NOT NULL DEFAULT 0;"
      "ALTER TABLE attempts ADD COLUMN reason TEXT NOT NULL DEFAULT '';"
      "ALTER TABLE attempts ADD COLUMN run TEXT NOT NULL DEFAULT '';"
      "ALTER TABLE attempts ADD COLUMN overridden_by TEXT NOT NULL DEFAULT '';",
      kSchema3,
      // Of each attempt the last request is known.
      "INSERT INTO spending SELECT a.committed_unix_micros / 86400000000, '', a.judge, q.goal, '', count(*), "
      "sum(a.outcome != 1), sum(a.prompt_tokens), sum(a.completion_tokens), 0 FROM attempts a JOIN queries q ON "
      "q.id = a.query WHERE a.prompt_tokens + a.completion_tokens > 0 GROUP BY 1, a.judge, q.goal;"
      "PRAGMA user_version=3; COMMIT;"));
}

// A store that was recovered from a damaged one may lack rows. Drops what has lost its query, closes the gaps of the
// sequence, lets queries wait again that lost their label, and makes it another log, so that followers read it anew.
absl::Status CloseGaps(SqliteConnection& store, const std::string& path) {
  SIBYL_RETURN_IF_ERROR(
      store.Run("BEGIN IMMEDIATE; DELETE FROM attempts WHERE query NOT IN (SELECT id FROM queries);"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t last, store.Integer("SELECT coalesce(max(sequence), 0) FROM attempts"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t labels, store.Integer("SELECT count(*) FROM attempts"));
  SIBYL_ASSIGN_OR_RETURN(
      const int64_t lost,
      store.Integer("SELECT count(*) FROM queries WHERE sequence IS NOT NULL AND sequence NOT IN (SELECT sequence "
                    "FROM attempts)"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t identities, store.Integer("SELECT count(*) FROM log"));
  if (last == labels && lost == 0 && identities == 1) return store.Run("COMMIT");
  spdlog::warn(
      "label store {} lacks a part of its log, as a recovered file may: {} labels are left, which are numbered "
      "anew, and queries without a label are asked again",
      path, labels);
  // Each row moves down to a place that is free by then.
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows, store.Prepare("SELECT sequence FROM attempts ORDER BY sequence"));
  std::vector<int64_t> sequences;
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) sequences.push_back(sqlite3_column_int64(rows, 0));
  if (code != SQLITE_DONE) return store.Error("read");
  sqlite3_reset(rows);
  for (size_t i = 0; i < sequences.size(); ++i) {
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * move, store.Prepare("UPDATE attempts SET sequence = ? WHERE sequence = ?"));
    Bind(move, 1, static_cast<int64_t>(i + 1));
    Bind(move, 2, sequences[i]);
    SIBYL_RETURN_IF_ERROR(store.Finish(move));
  }
  return store.Run(
      absl::StrCat("UPDATE queries SET sequence = (SELECT max(sequence) FROM attempts WHERE query = queries.id), "
                   "attempts = (SELECT coalesce(max(attempt), 0) FROM attempts WHERE query = queries.id);"
                   "UPDATE queries SET waits = 1, ask_again_unix_micros = NULL WHERE sequence IS NULL;"
                   "DELETE FROM log; INSERT INTO log VALUES('",
                   NewLogId(), "'); COMMIT;"));
}

}  // namespace

std::string NewLogId() { return absl::StrFormat("%016x%016x", FreshRandom64(), FreshRandom64()); }

absl::StatusOr<std::unique_ptr<SqliteConnection>> OpenStore(const std::string& path, const std::string& vfs,
                                                            const std::string& known_log_id, FileSystem& files) {
  if (!files.Exists(path)) {
    if (!known_log_id.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "label store ", path, " is gone, and with it the labels of log ", known_log_id, " (named in ", path,
          ".lock); restore a copy, or remove ", path, ".lock to begin with an empty log and pay for its labels again"));
    }
    SIBYL_RETURN_IF_ERROR(CreateStore(path, vfs, files));
  } else if (IsEmpty(path, files)) {
    return absl::DataLossError(
        absl::StrCat("label store ", path,
                     " has 0 bytes, and a store never has so few; its labels are lost with its content. Restore "
                     "a copy, or remove the file and ",
                     path, ".lock to begin with an empty log and pay for its labels again"));
  }
  SIBYL_ASSIGN_OR_RETURN(auto store, SqliteConnection::Open(path, vfs));
  SIBYL_ASSIGN_OR_RETURN(const int64_t version, CheckStore(*store, path));
  // EXTRA is FULL, and also syncs the folder when the rollback journal of the change to WAL is deleted: a journal that
  // a power failure brought back would undo that change, and with it everything in the WAL.
  SIBYL_RETURN_IF_ERROR(store->Run("PRAGMA synchronous=EXTRA; PRAGMA journal_mode=WAL;"));
  if (version == 1) {
    SIBYL_RETURN_IF_ERROR(MigrateFrom1(*store));
  } else if (version == 2) {
    SIBYL_RETURN_IF_ERROR(MigrateFrom2(*store));
  }
  if (version < kStoreVersion) {
    spdlog::info("label store {} has been migrated from version {} to {}", path, version, kStoreVersion);
  }
  SIBYL_RETURN_IF_ERROR(CloseGaps(*store, path));
  SIBYL_RETURN_IF_ERROR(store->Run("PRAGMA foreign_keys=ON"));
  return store;
}

}  // namespace sibyl::annotator
