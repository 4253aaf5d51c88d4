#include "annotator/label_store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/query_identity.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

// Ask calls that wait for the writing thread, at most.
constexpr size_t kMaxJobs = 1000;

// "Sibl": tells a label store from any other SQLite file.
constexpr int kApplicationId = 0x5369626c;

constexpr char kSchema[] = R"sql(
CREATE TABLE queries(
  id INTEGER PRIMARY KEY,                   -- in order of acceptance
  key BLOB NOT NULL UNIQUE,                 -- QueryKey: 32 bytes
  judge_identity TEXT NOT NULL,
  kind INTEGER NOT NULL,                    -- sibyl.v1.QueryKind
  caption TEXT NOT NULL,
  second_caption TEXT,                      -- COMPARE only
  goal TEXT NOT NULL,
  label_set TEXT NOT NULL,                  -- one label a line
  context TEXT NOT NULL,
  priority REAL NOT NULL,
  accepted_unix_micros INTEGER NOT NULL,
  sequence INTEGER                          -- of its label; NULL: it waits
) STRICT;
CREATE INDEX waiting ON queries(judge_identity, id) WHERE sequence IS NULL;
CREATE TABLE labels(
  sequence INTEGER PRIMARY KEY,             -- from 1, without gaps
  query INTEGER NOT NULL UNIQUE REFERENCES queries(id),
  outcome INTEGER NOT NULL,                 -- sibyl.v1.Outcome
  distribution TEXT NOT NULL,               -- probabilities in the order of label_set, by blanks
  outside REAL NOT NULL,
  judge TEXT NOT NULL,
  prompt TEXT NOT NULL,
  raw TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  committed_unix_micros INTEGER NOT NULL
) STRICT;
)sql";

constexpr char kQueryColumns[] =
    "q.id, q.kind, q.caption, q.second_caption, q.goal, q.label_set, q.context, q.priority";
constexpr char kLabelColumns[] =
    "l.sequence, l.outcome, l.distribution, l.outside, l.judge, l.prompt, l.raw, l.prompt_tokens, "
    "l.completion_tokens, l.committed_unix_micros";

}  // namespace

// One connection and its prepared statements. One thread at a time.
class LabelStore::Connection {
 public:
  explicit Connection(std::string path) : path_(std::move(path)) {}
  ~Connection() {
    for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(db_);
  }

  absl::Status Open(const std::string& vfs) {
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path_.c_str(), &db_, flags, vfs.empty() ? nullptr : vfs.c_str()) != SQLITE_OK) {
      return Error("open");
    }
    sqlite3_extended_result_codes(db_, 1);
    sqlite3_busy_timeout(db_, 10'000);
    return absl::OkStatus();
  }

  absl::Status Error(absl::string_view doing) const {
    return absl::UnavailableError(absl::StrCat("label store ", path_, ": cannot ", doing, ": ", sqlite3_errmsg(db_),
                                               " (", sqlite3_errstr(sqlite3_extended_errcode(db_)),
                                               "); check the disk's space and the file's permissions"));
  }

  absl::Status Run(const char* sql) {
    return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus() : Error("write");
  }

  // First column of the first row of a statement without parameters.
  absl::StatusOr<int64_t> Integer(const char* sql) {
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * statement, Prepare(sql));
    if (sqlite3_step(statement) != SQLITE_ROW) return Error("read");
    const int64_t value = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return value;
  }

  // Ready to bind; kept for the next use of the same text.
  absl::StatusOr<sqlite3_stmt*> Prepare(const std::string& sql) {
    sqlite3_stmt*& statement = statements_[sql];
    if (statement == nullptr && sqlite3_prepare_v2(db_, sql.c_str(), -1, &statement, nullptr) != SQLITE_OK) {
      return Error("prepare");
    }
    sqlite3_reset(statement);
    return statement;
  }

  // Runs a bound statement that gives no row.
  absl::Status Finish(sqlite3_stmt* statement) {
    const int code = sqlite3_step(statement);
    const absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : Error("write");
    sqlite3_reset(statement);
    return status;
  }

  int64_t last_id() const { return sqlite3_last_insert_rowid(db_); }

 private:
  const std::string path_;
  sqlite3* db_ = nullptr;
  absl::flat_hash_map<std::string, sqlite3_stmt*> statements_;
};

namespace {

void Bind(sqlite3_stmt* statement, int at, const std::string& text) {
  sqlite3_bind_text(statement, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
}
void Bind(sqlite3_stmt* statement, int at, int64_t value) { sqlite3_bind_int64(statement, at, value); }
void Bind(sqlite3_stmt* statement, int at, double value) { sqlite3_bind_double(statement, at, value); }

std::string Text(sqlite3_stmt* statement, int at) {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, at));
  return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(statement, at));
}

// Columns kQueryColumns, from column `at`.
WaitingQuery QueryAt(sqlite3_stmt* row, int at) {
  WaitingQuery result;
  result.id = sqlite3_column_int64(row, at);
  v1::Query& query = result.query;
  query.set_kind(static_cast<v1::QueryKind>(sqlite3_column_int(row, at + 1)));
  query.add_captions(Text(row, at + 2));
  if (sqlite3_column_type(row, at + 3) != SQLITE_NULL) query.add_captions(Text(row, at + 3));
  query.set_goal(Text(row, at + 4));
  for (absl::string_view label : absl::StrSplit(Text(row, at + 5), '\n')) query.add_label_set(std::string(label));
  query.set_context(Text(row, at + 6));
  query.set_priority(sqlite3_column_double(row, at + 7));
  return result;
}

// Columns kLabelColumns, then kQueryColumns.
v1::Label LabelAt(sqlite3_stmt* row) {
  v1::Label label;
  label.set_sequence(sqlite3_column_int64(row, 0));
  label.set_outcome(static_cast<v1::Outcome>(sqlite3_column_int(row, 1)));
  for (absl::string_view probability : absl::StrSplit(Text(row, 2), ' ', absl::SkipEmpty())) {
    float value = 0;
    if (absl::SimpleAtof(probability, &value)) label.add_distribution(value);
  }
  label.set_outside(static_cast<float>(sqlite3_column_double(row, 3)));
  label.set_judge(Text(row, 4));
  label.set_prompt(Text(row, 5));
  label.set_raw(Text(row, 6));
  label.set_prompt_tokens(sqlite3_column_int64(row, 7));
  label.set_completion_tokens(sqlite3_column_int64(row, 8));
  label.set_committed_unix_micros(sqlite3_column_int64(row, 9));
  *label.mutable_query() = QueryAt(row, 10).query;
  return label;
}

bool Passes(const v1::Label& label, const v1::LabelsRequest& filter) {
  if (!filter.goal().empty() && label.query().goal() != filter.goal()) return false;
  if (!filter.judge().empty() && label.judge() != filter.judge()) return false;
  if (!filter.prompt().empty() && label.prompt() != filter.prompt()) return false;
  if (filter.label_set().empty()) return true;
  return std::equal(filter.label_set().begin(), filter.label_set().end(), label.query().label_set().begin(),
                    label.query().label_set().end());
}

}  // namespace

struct LabelStore::Job {
  // Ask, when `asked` is set; else Append.
  std::vector<v1::Query> queries;
  AskResult result;
  std::function<void(absl::StatusOr<AskResult>)> asked;
  int64_t query_id = 0;
  v1::Label label;
  std::function<void(absl::StatusOr<v1::Label>)> appended;

  void Succeed() {
    if (asked) asked(std::move(result));
    if (appended) appended(std::move(label));
  }
  void Refuse(const absl::Status& status) {
    if (asked) asked(status);
    if (appended) appended(status);
  }
};

struct LabelStore::Gauges {
  explicit Gauges(Metrics& metrics)
      : commits(metrics.Counter("sibyl_annotator_commits_total", "Transactions committed to the label store.")),
        commit_seconds(metrics.Histogram("sibyl_annotator_commit_seconds",
                                         "Seconds that a transaction took, its sync included.",
                                         {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5})),
        jobs(metrics.Gauge("sibyl_annotator_store_calls", "Calls in the transaction that is being written.")),
        waiting(metrics.Gauge("sibyl_annotator_waiting_queries", "Queries accepted and not answered.")),
        labels(metrics.Gauge("sibyl_annotator_log_labels", "Labels in the log.")) {}

  prometheus::Counter& commits;
  prometheus::Histogram& commit_seconds;
  prometheus::Gauge& jobs;
  prometheus::Gauge& waiting;
  prometheus::Gauge& labels;
};

LabelStore::LabelStore(const LabelStoreOptions& options, Clock& clock, std::function<void(absl::Status)> on_failure)
    : options_(options), clock_(clock), on_failure_(std::move(on_failure)) {}

absl::StatusOr<std::unique_ptr<LabelStore>> LabelStore::Open(const LabelStoreOptions& options, Clock& clock,
                                                             Metrics& metrics,
                                                             std::function<void(absl::Status)> on_failure) {
  std::unique_ptr<LabelStore> store(new LabelStore(options, clock, std::move(on_failure)));
  SIBYL_RETURN_IF_ERROR(store->Load());
  store->gauges_ = std::make_unique<Gauges>(metrics);
  store->gauges_->waiting.Set(static_cast<double>(store->waiting()));
  store->gauges_->labels.Set(static_cast<double>(store->last_sequence()));
  store->thread_ = std::thread([store = store.get()] { store->Write(); });
  return store;
}

absl::Status LabelStore::Load() {
  const std::string lock_path = options_.path + ".lock";
  lock_fd_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("label store: cannot open ", lock_path, ": ", strerror(errno),
                     "; annotator.store must lie in a folder that exists and can be written"));
  }
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("label store ", options_.path, " is open in another process (", lock_path,
                     " is locked); stop that annotator, or give this one another annotator.store"));
  }

  writer_ = std::make_unique<Connection>(options_.path);
  SIBYL_RETURN_IF_ERROR(writer_->Open(options_.vfs));
  SIBYL_ASSIGN_OR_RETURN(const int64_t tables, writer_->Integer("SELECT count(*) FROM sqlite_master"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t application, writer_->Integer("PRAGMA application_id"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t version, writer_->Integer("PRAGMA user_version"));
  const bool fresh = tables == 0 && application == 0 && version == 0;
  if (!fresh && application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.path, " is a SQLite file but no label store; give annotator.store another name"));
  }
  if (!fresh && version != kStoreVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("label store ", options_.path, " has version ", version, ", this annotator reads version ",
                     kStoreVersion, "; use the build that wrote it, or give this one another annotator.store"));
  }
  // EXTRA is FULL, and also syncs the folder when the rollback journal of the change to WAL is deleted: a journal that
  // a power failure brought back would undo that change, and with it everything in the WAL.
  SIBYL_RETURN_IF_ERROR(writer_->Run("PRAGMA synchronous=EXTRA; PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;"));
  if (fresh) {
    SIBYL_RETURN_IF_ERROR(writer_->Run(absl::StrCat("BEGIN IMMEDIATE;", kSchema, "PRAGMA application_id=",
                                                    kApplicationId, ";PRAGMA user_version=", kStoreVersion, ";COMMIT;")
                                           .c_str()));
  }

  SIBYL_ASSIGN_OR_RETURN(const int64_t last, writer_->Integer("SELECT coalesce(max(sequence), 0) FROM labels"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t labels, writer_->Integer("SELECT count(*) FROM labels"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t all, writer_->Integer("SELECT count(*) FROM queries WHERE sequence IS NULL"));
  if (last != labels) {
    return absl::DataLossError(
        absl::StrCat("label store ", options_.path, " is damaged: its last label is ", last, " and it holds ", labels));
  }
  next_sequence_ = last + 1;
  last_sequence_ = last;
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows,
                         writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                                       " FROM queries q WHERE q.sequence IS NULL AND "
                                                       "q.judge_identity = ? ORDER BY q.id")));
  Bind(rows, 1, options_.judge_identity);
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) found_waiting_.push_back(QueryAt(rows, 0));
  if (code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  unanswered_ = found_waiting_.size();
  waiting_ = unanswered_;
  set_aside_ = all - unanswered_;

  reader_ = std::make_unique<Connection>(options_.path);
  MutexLock lock(read_mutex_);
  SIBYL_RETURN_IF_ERROR(reader_->Open(options_.vfs));
  return reader_->Run("PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0;");
}

LabelStore::~LabelStore() {
  if (thread_.joinable()) {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      work_.NotifyAll();
    }
    thread_.join();
  }
  reader_.reset();  // first: the writer's close tidies the WAL away
  writer_.reset();
  if (lock_fd_ >= 0) close(lock_fd_);
}

std::vector<WaitingQuery> LabelStore::TakeWaiting() { return std::move(found_waiting_); }

void LabelStore::Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) {
  Job job;
  job.queries = std::move(queries);
  job.asked = std::move(done);
  Enqueue(std::move(job), true);
}

void LabelStore::Append(const WaitingQuery& query, const std::string& judge, const std::string& prompt, Verdict verdict,
                        std::function<void(absl::StatusOr<v1::Label>)> done) {
  Job job;
  job.query_id = query.id;
  v1::Label& label = job.label;
  *label.mutable_query() = query.query;
  label.set_outcome(verdict.outcome);
  label.mutable_distribution()->Assign(verdict.distribution.begin(), verdict.distribution.end());
  label.set_outside(verdict.outside);
  label.set_judge(judge);
  label.set_prompt(prompt);
  label.set_raw(std::move(verdict.raw));
  label.set_prompt_tokens(verdict.prompt_tokens);
  label.set_completion_tokens(verdict.completion_tokens);
  job.appended = std::move(done);
  Enqueue(std::move(job), false);
}

void LabelStore::Enqueue(Job job, bool bounded) {
  absl::Status refused;
  {
    MutexLock lock(mutex_);
    if (!failed_.ok()) {
      refused = failed_;
    } else if (bounded && jobs_.size() >= kMaxJobs) {
      refused = absl::UnavailableError(
          absl::StrCat("label store ", options_.path, ": ", kMaxJobs, " calls wait already; try again later"));
    } else {
      jobs_.push_back(std::move(job));
      work_.NotifyOne();
    }
  }
  if (!refused.ok()) job.Refuse(refused);
}

void LabelStore::Write() {
  NameThread("store");
  while (true) {
    std::vector<Job> jobs;
    absl::Status failed;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stopping_) work_.Wait(mutex_);
      if (jobs_.empty()) return;
      jobs.assign(std::make_move_iterator(jobs_.begin()), std::make_move_iterator(jobs_.end()));
      jobs_.clear();
      failed = failed_;
    }
    gauges_->jobs.Set(static_cast<double>(jobs.size()));
    const bool failed_before = !failed.ok();
    if (!failed_before) failed = Apply(jobs);
    if (!failed.ok()) {
      {
        MutexLock lock(mutex_);
        failed_ = failed;
      }
      for (Job& job : jobs) job.Refuse(failed);
      if (!failed_before) on_failure_(failed);
      continue;
    }
    waiting_ = unanswered_;
    last_sequence_.store(next_sequence_ - 1, std::memory_order_release);
    gauges_->waiting.Set(static_cast<double>(unanswered_));
    gauges_->labels.Set(static_cast<double>(next_sequence_ - 1));
    gauges_->jobs.Set(0);
    for (Job& job : jobs) job.Succeed();
  }
}

absl::Status LabelStore::Apply(std::vector<Job>& jobs) {
  const auto start = std::chrono::steady_clock::now();
  wrote_ = false;
  SIBYL_RETURN_IF_ERROR(writer_->Run("BEGIN IMMEDIATE"));
  for (Job& job : jobs) {
    SIBYL_RETURN_IF_ERROR(job.asked ? ApplyAsk(job) : ApplyAppend(job));
  }
  SIBYL_RETURN_IF_ERROR(writer_->Run("COMMIT"));
  if (wrote_) {
    gauges_->commits.Increment();
    gauges_->commit_seconds.Observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return absl::OkStatus();
}

absl::Status LabelStore::ApplyAsk(Job& job) {
  for (v1::Query& query : job.queries) {
    v1::AskOutcome& outcome = job.result.outcomes.emplace_back();
    outcome.set_tag(query.tag());
    const std::string key = QueryKey(query, options_.judge_identity);
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * find, writer_->Prepare("SELECT sequence FROM queries WHERE key = ?"));
    sqlite3_bind_blob(find, 1, key.data(), static_cast<int>(key.size()), SQLITE_TRANSIENT);
    const int found = sqlite3_step(find);
    const int64_t sequence = found == SQLITE_ROW ? sqlite3_column_int64(find, 0) : 0;  // 0: NULL
    if (found != SQLITE_ROW && found != SQLITE_DONE) return writer_->Error("read");
    sqlite3_reset(find);

    if (sequence > 0) {
      SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row,
                             writer_->Prepare(absl::StrCat("SELECT ", kLabelColumns, ", ", kQueryColumns,
                                                           " FROM labels l JOIN queries q ON q.id = l.query "
                                                           "WHERE l.sequence = ?")));
      Bind(row, 1, sequence);
      if (sqlite3_step(row) != SQLITE_ROW) return writer_->Error("read a label");
      outcome.set_kind(v1::AskOutcome::KIND_KNOWN);
      *outcome.mutable_label() = LabelAt(row);
      sqlite3_reset(row);
      continue;
    }
    if (found == SQLITE_ROW) {
      outcome.set_kind(v1::AskOutcome::KIND_DUPLICATE);
      continue;
    }
    if (unanswered_ >= options_.capacity) {
      outcome.set_kind(v1::AskOutcome::KIND_FULL);
      continue;
    }
    SIBYL_ASSIGN_OR_RETURN(
        sqlite3_stmt * insert,
        writer_->Prepare("INSERT INTO queries(key, judge_identity, kind, caption, second_caption, goal, label_set, "
                         "context, priority, accepted_unix_micros) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    sqlite3_bind_blob(insert, 1, key.data(), static_cast<int>(key.size()), SQLITE_TRANSIENT);
    Bind(insert, 2, options_.judge_identity);
    Bind(insert, 3, int64_t{query.kind()});
    Bind(insert, 4, query.captions(0));
    if (query.captions_size() > 1) {
      Bind(insert, 5, query.captions(1));
    } else {
      sqlite3_bind_null(insert, 5);
    }
    Bind(insert, 6, query.goal());
    Bind(insert, 7, absl::StrJoin(query.label_set(), "\n"));
    Bind(insert, 8, query.context());
    Bind(insert, 9, query.priority());
    Bind(insert, 10, absl::ToUnixMicros(clock_.Now()));
    SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
    wrote_ = true;
    ++unanswered_;
    query.clear_tag();
    job.result.accepted.push_back({writer_->last_id(), std::move(query)});
    outcome.set_kind(v1::AskOutcome::KIND_ACCEPTED);
  }
  job.result.room = options_.capacity - std::min(unanswered_, options_.capacity);
  return absl::OkStatus();
}

absl::Status LabelStore::ApplyAppend(Job& job) {
  v1::Label& label = job.label;
  label.set_sequence(next_sequence_);
  label.set_committed_unix_micros(absl::ToUnixMicros(clock_.Now()));
  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * insert,
      writer_->Prepare("INSERT INTO labels(sequence, query, outcome, distribution, outside, judge, prompt, raw, "
                       "prompt_tokens, completion_tokens, committed_unix_micros) "
                       "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  Bind(insert, 1, static_cast<int64_t>(label.sequence()));
  Bind(insert, 2, job.query_id);
  Bind(insert, 3, int64_t{label.outcome()});
  Bind(insert, 4, absl::StrJoin(label.distribution(), " ", [](std::string* out, float probability) {
         absl::StrAppendFormat(out, "%.9g", probability);
       }));
  Bind(insert, 5, double{label.outside()});
  Bind(insert, 6, label.judge());
  Bind(insert, 7, label.prompt());
  Bind(insert, 8, label.raw());
  Bind(insert, 9, static_cast<int64_t>(label.prompt_tokens()));
  Bind(insert, 10, static_cast<int64_t>(label.completion_tokens()));
  Bind(insert, 11, label.committed_unix_micros());
  SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update, writer_->Prepare("UPDATE queries SET sequence = ? WHERE id = ?"));
  Bind(update, 1, static_cast<int64_t>(label.sequence()));
  Bind(update, 2, job.query_id);
  SIBYL_RETURN_IF_ERROR(writer_->Finish(update));
  wrote_ = true;
  ++next_sequence_;
  --unanswered_;
  return absl::OkStatus();
}

absl::StatusOr<v1::LabelBatch> LabelStore::Read(const v1::LabelsRequest& request, int rows) {
  const uint64_t last = last_sequence();
  const uint64_t from = std::max<uint64_t>(request.from_sequence(), 1);
  if (from > last + 1) {
    return absl::OutOfRangeError(absl::StrCat(
        "from_sequence is ", from, " and the label log ends at ", last,
        ": it was read from another store; start again from 1, or give the annotator the store that it came from"));
  }
  v1::LabelBatch batch;
  batch.set_next_sequence(std::min(last + 1, from + rows));
  MutexLock lock(read_mutex_);
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row,
                         reader_->Prepare(absl::StrCat("SELECT ", kLabelColumns, ", ", kQueryColumns,
                                                       " FROM labels l JOIN queries q ON q.id = l.query "
                                                       "WHERE l.sequence >= ? AND l.sequence < ? "
                                                       "ORDER BY l.sequence")));
  Bind(row, 1, static_cast<int64_t>(from));
  Bind(row, 2, static_cast<int64_t>(batch.next_sequence()));
  int code;
  while ((code = sqlite3_step(row)) == SQLITE_ROW) {
    v1::Label label = LabelAt(row);
    if (Passes(label, request)) *batch.add_labels() = std::move(label);
  }
  sqlite3_reset(row);
  if (code != SQLITE_DONE) return reader_->Error("read labels");
  return batch;
}

}  // namespace sibyl::annotator
