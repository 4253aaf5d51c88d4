#include "annotator/store/sqlite_label_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/questions/canonical.h"
#include "annotator/store/sqlite_store.h"
#include "common/log.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

// Calls that wait for the writing thread, at most; answers, which are paid for, are not counted.
constexpr size_t kMaxJobs = 1000;
// Queries that are given new keys, or asked again, in one step.
constexpr int kStep = 1000;

constexpr char kQueryColumns[] = "q.id, q.kind, q.texts, q.goal, q.grammar, q.priority";
constexpr char kLabelColumns[] =
    "a.sequence, a.attempt, a.outcome, a.answer, a.judge, a.prompt, a.raw, a.prompt_tokens, a.completion_tokens, "
    "a.committed_unix_micros";
constexpr int kLabelColumnCount = 10;

// Columns kQueryColumns, from column `at`.
absl::StatusOr<WaitingQuery> QueryAt(sqlite3_stmt* row, int at) {
  WaitingQuery result;
  result.id = sqlite3_column_int64(row, at);
  v1::Query& query = result.query;
  query.set_kind(TextAt(row, at + 1));
  query.set_goal(TextAt(row, at + 3));
  query.set_priority(sqlite3_column_double(row, at + 5));
  if (!ParseTextsJson(TextAt(row, at + 2), query.mutable_texts()) ||
      !ParseGrammarJson(TextAt(row, at + 4), query.mutable_grammar())) {
    return absl::DataLossError(absl::StrCat("query ", result.id, " of the label store has texts or a grammar that are ",
                                            "no JSON of the annotator's; the row was changed by hand or is damaged"));
  }
  return result;
}

// Columns kLabelColumns, then kQueryColumns.
absl::StatusOr<v1::Label> LabelAt(sqlite3_stmt* row) {
  v1::Label label;
  label.set_sequence(sqlite3_column_int64(row, 0));
  label.set_attempt(sqlite3_column_int(row, 1));
  label.set_outcome(static_cast<v1::Outcome>(sqlite3_column_int(row, 2)));
  if (label.outcome() == v1::OUTCOME_ANSWERED && !ParseAnswerJson(TextAt(row, 3), label.mutable_answer())) {
    return absl::DataLossError(absl::StrCat("label ", label.sequence(), " of the label store has an answer that is no ",
                                            "JSON of the annotator's; the row was changed by hand or is damaged"));
  }
  label.set_judge(TextAt(row, 4));
  label.set_prompt(TextAt(row, 5));
  label.set_raw(TextAt(row, 6));
  label.set_prompt_tokens(sqlite3_column_int64(row, 7));
  label.set_completion_tokens(sqlite3_column_int64(row, 8));
  label.set_committed_unix_micros(sqlite3_column_int64(row, 9));
  SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(row, kLabelColumnCount));
  *label.mutable_query() = std::move(query.query);
  return label;
}

std::string Joined(absl::string_view where) {
  return absl::StrCat("SELECT ", kLabelColumns, ", ", kQueryColumns,
                      " FROM attempts a JOIN queries q ON q.id = a.query WHERE ", where);
}

}  // namespace

struct SqliteLabelLog::Job {
  // One of the three callbacks is set.
  std::vector<v1::Query> queries;
  AskResult result;
  std::function<void(absl::StatusOr<AskResult>)> asked;

  int64_t query_id = 0;
  v1::Label label;
  std::function<void(absl::StatusOr<v1::Label>)> appended;

  std::vector<v1::Outcome> outcomes;
  std::vector<WaitingQuery> found;
  std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> asked_again;

  void Succeed() {
    if (asked) asked(std::move(result));
    if (appended) appended(std::move(label));
    if (asked_again) asked_again(std::move(found));
  }
  void Refuse(const absl::Status& status) {
    if (asked) asked(status);
    if (appended) appended(status);
    if (asked_again) asked_again(status);
  }
};

struct SqliteLabelLog::Gauges {
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

SqliteLabelLog::SqliteLabelLog(const SqliteLabelLogOptions& options, const Host& host)
    : options_(options), host_(host) {}

absl::StatusOr<std::unique_ptr<SqliteLabelLog>> SqliteLabelLog::Open(const SqliteLabelLogOptions& options,
                                                                     const Host& host) {
  std::unique_ptr<SqliteLabelLog> log(new SqliteLabelLog(options, host));
  SIBYL_RETURN_IF_ERROR(log->Load());
  log->gauges_ = std::make_unique<Gauges>(host.metrics);
  log->gauges_->waiting.Set(static_cast<double>(log->waiting()));
  log->gauges_->labels.Set(static_cast<double>(log->last_sequence()));
  log->heartbeat_ = host.heartbeats.Add("store", kLongestSilence);
  log->worker_ = std::make_unique<Worker>(
      "store", [log = log.get()](const std::stop_token& stop) { return log->Write(stop); }, host.fail);
  return log;
}

absl::Status SqliteLabelLog::Load() {
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
  char noted[64];
  const ssize_t read = pread(lock_fd_, noted, sizeof noted, 0);
  noted_log_id_ = std::string(absl::StripAsciiWhitespace({noted, static_cast<size_t>(std::max<ssize_t>(read, 0))}));

  SIBYL_ASSIGN_OR_RETURN(writer_, OpenStore(options_.path, options_.vfs, noted_log_id_, *options_.files));
  SIBYL_ASSIGN_OR_RETURN(log_id_, writer_->Text("SELECT log_id FROM log"));
  SIBYL_ASSIGN_OR_RETURN(const int64_t last, writer_->Integer("SELECT coalesce(max(sequence), 0) FROM attempts"));
  next_sequence_ = last + 1;
  last_sequence_ = last;
  if (last > 0) SIBYL_RETURN_IF_ERROR(NoteInLock());
  SIBYL_RETURN_IF_ERROR(Rekey());
  SIBYL_RETURN_IF_ERROR(LoadWaiting());

  SIBYL_ASSIGN_OR_RETURN(auto reader, SqliteConnection::Open(options_.path, options_.vfs));
  SIBYL_RETURN_IF_ERROR(reader->Run("PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0;"));
  MutexLock lock(read_mutex_);
  reader_ = std::move(reader);
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::NoteInLock() {
  if (noted_log_id_ == log_id_) return absl::OkStatus();
  const std::string line = log_id_ + "\n";
  if (pwrite(lock_fd_, line.data(), line.size(), 0) != static_cast<ssize_t>(line.size()) ||
      ftruncate(lock_fd_, static_cast<off_t>(line.size())) != 0 || fsync(lock_fd_) != 0) {
    return absl::UnavailableError(absl::StrCat("label store: cannot write ", options_.path, ".lock: ", strerror(errno),
                                               "; check the disk's space"));
  }
  noted_log_id_ = log_id_;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::Rekey() {
  SIBYL_RETURN_IF_ERROR(writer_->Run("BEGIN IMMEDIATE"));
  int64_t after = 0;
  for (bool more = true; more;) {
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows,
                           writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                                         " FROM queries q WHERE q.version_1_judge = ? AND q.id > ? "
                                                         "ORDER BY q.id LIMIT ",
                                                         kStep)));
    Bind(rows, 1, options_.judge.version_1_identity);
    Bind(rows, 2, after);
    std::vector<WaitingQuery> found;
    int code;
    while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
      SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, 0));
      found.push_back(std::move(query));
    }
    if (code != SQLITE_DONE) return writer_->Error("read");
    sqlite3_reset(rows);
    for (const WaitingQuery& query : found) {
      after = query.id;
      const std::string key = options_.judge.key(query.query);
      if (key.empty()) continue;
      // Two prompts of version 1 may render a query alike; the label of the first one counts then.
      SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update,
                             writer_->Prepare("UPDATE OR IGNORE queries SET key = ?, judge = ?, version_1_judge = NULL "
                                              "WHERE id = ?"));
      BindBlob(update, 1, key);
      Bind(update, 2, options_.judge.identity);
      Bind(update, 3, query.id);
      SIBYL_RETURN_IF_ERROR(writer_->Finish(update));
    }
    more = found.size() == kStep;
  }
  return writer_->Run("COMMIT");
}

absl::Status SqliteLabelLog::LoadWaiting() {
  SIBYL_ASSIGN_OR_RETURN(const int64_t all, writer_->Integer("SELECT count(*) FROM queries WHERE waits = 1"));
  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * rows,
      writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                    ", q.key FROM queries q WHERE q.waits = 1 AND q.judge = ? ORDER BY q.id")));
  Bind(rows, 1, options_.judge.identity);
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
    SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, 0));
    // Another prompt renders it otherwise: it waits for that one.
    if (options_.judge.key(query.query) == BlobAt(rows, 6)) found_waiting_.push_back(std::move(query));
  }
  if (code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  unanswered_ = found_waiting_.size();
  waiting_ = unanswered_;
  set_aside_ = all - unanswered_;
  return absl::OkStatus();
}

SqliteLabelLog::~SqliteLabelLog() {
  if (const absl::Status status = Close(); !status.ok()) spdlog::error("{}", status.message());
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::Status SqliteLabelLog::Close() {
  absl::Status status;
  if (worker_ != nullptr) {
    {
      MutexLock lock(mutex_);
      closed_ = true;
    }
    worker_->RequestStop();
    worker_.reset();
    heartbeat_.reset();
    MutexLock lock(mutex_);
    status = failed_;
  }
  {
    MutexLock lock(read_mutex_);
    if (reader_ != nullptr) status.Update(reader_->Close());  // first: the writer's close tidies the WAL away
    reader_.reset();
  }
  if (writer_ != nullptr) status.Update(writer_->Close());
  writer_.reset();
  return status;
}

std::vector<WaitingQuery> SqliteLabelLog::TakeWaiting() { return std::move(found_waiting_); }

void SqliteLabelLog::Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) {
  Job job;
  job.queries = std::move(queries);
  job.asked = std::move(done);
  Enqueue(std::move(job), true);
}

void SqliteLabelLog::Append(const WaitingQuery& query, v1::Label label,
                            std::function<void(absl::StatusOr<v1::Label>)> done) {
  Job job;
  job.query_id = query.id;
  job.label = std::move(label);
  *job.label.mutable_query() = query.query;
  job.appended = std::move(done);
  Enqueue(std::move(job), false);
}

void SqliteLabelLog::AskAgain(std::vector<v1::Outcome> outcomes,
                              std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) {
  Job job;
  job.outcomes = std::move(outcomes);
  job.asked_again = std::move(done);
  Enqueue(std::move(job), true);
}

void SqliteLabelLog::Enqueue(Job job, bool bounded) {
  absl::Status refused;
  {
    MutexLock lock(mutex_);
    if (!failed_.ok()) {
      refused = failed_;
    } else if (closed_) {
      refused = absl::UnavailableError(absl::StrCat("label store ", options_.path, " is closed"));
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

void SqliteLabelLog::Fail(const absl::Status& reason) {
  {
    MutexLock lock(mutex_);
    if (!failed_.ok()) return;
    failed_ = reason;
  }
  host_.fail(reason);
}

absl::Status SqliteLabelLog::Write(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, work_);
  while (true) {
    heartbeat_->Beat();
    std::vector<Job> jobs;
    absl::Status failed;
    {
      MutexLock lock(mutex_);
      if (jobs_.empty() && !stop.stop_requested()) host_.clock.WaitFor(work_, mutex_, absl::Seconds(1));
      if (jobs_.empty() && stop.stop_requested()) return absl::OkStatus();
      if (jobs_.empty()) continue;
      jobs.assign(std::make_move_iterator(jobs_.begin()), std::make_move_iterator(jobs_.end()));
      jobs_.clear();
      failed = failed_;
    }
    gauges_->jobs.Set(static_cast<double>(jobs.size()));
    if (failed.ok()) {
      failed = Apply(jobs);
      if (!failed.ok()) Fail(failed);
    }
    if (!failed.ok()) {
      for (Job& job : jobs) job.Refuse(failed);
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

absl::Status SqliteLabelLog::Apply(std::vector<Job>& jobs) {
  const auto start = std::chrono::steady_clock::now();
  wrote_ = false;
  SIBYL_RETURN_IF_ERROR(writer_->Run("BEGIN IMMEDIATE"));
  for (Job& job : jobs) {
    SIBYL_RETURN_IF_ERROR(job.asked ? ApplyAsk(job) : job.appended ? ApplyAppend(job) : ApplyAskAgain(job));
  }
  // Before the first label is durable, so that the store is never lost without notice.
  if (next_sequence_ > 1) SIBYL_RETURN_IF_ERROR(NoteInLock());
  SIBYL_RETURN_IF_ERROR(writer_->Run("COMMIT"));
  if (wrote_) {
    gauges_->commits.Increment();
    gauges_->commit_seconds.Observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyAsk(Job& job) {
  const int64_t now = absl::ToUnixMicros(host_.clock.Now());
  for (v1::Query& query : job.queries) {
    v1::AskOutcome& outcome = job.result.outcomes.emplace_back();
    outcome.set_tag(query.tag());
    const std::string key = options_.judge.key(query);
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * find,
                           writer_->Prepare("SELECT id, waits, coalesce(sequence, 0), "
                                            "coalesce(ask_again_unix_micros <= ?, 0) FROM queries WHERE key = ?"));
    Bind(find, 1, now);
    BindBlob(find, 2, key);
    const int code = sqlite3_step(find);
    if (code != SQLITE_ROW && code != SQLITE_DONE) return writer_->Error("read");
    const bool found = code == SQLITE_ROW;
    const int64_t id = found ? sqlite3_column_int64(find, 0) : 0;
    const bool waits = found && sqlite3_column_int(find, 1) != 0;
    const int64_t sequence = found ? sqlite3_column_int64(find, 2) : 0;
    const bool again = found && sqlite3_column_int(find, 3) != 0;
    sqlite3_reset(find);

    if (waits) {
      outcome.set_kind(v1::AskOutcome::KIND_DUPLICATE);
      continue;
    }
    if (found && !again) {
      SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row, writer_->Prepare(Joined("a.sequence = ?")));
      Bind(row, 1, sequence);
      if (sqlite3_step(row) != SQLITE_ROW) return writer_->Error("read a label");
      SIBYL_ASSIGN_OR_RETURN(*outcome.mutable_label(), LabelAt(row));
      outcome.set_kind(v1::AskOutcome::KIND_KNOWN);
      sqlite3_reset(row);
      continue;
    }
    if (unanswered_ >= options_.capacity) {
      outcome.set_kind(v1::AskOutcome::KIND_FULL);
      continue;
    }
    query.clear_tag();
    if (found) {
      SIBYL_RETURN_IF_ERROR(MakeWait(id));
      job.result.accepted.push_back({id, std::move(query)});
    } else {
      SIBYL_ASSIGN_OR_RETURN(
          sqlite3_stmt * insert,
          writer_->Prepare("INSERT INTO queries(key, judge, kind, texts, goal, grammar, priority, "
                           "accepted_unix_micros, waits, attempts) VALUES(?, ?, ?, ?, ?, ?, ?, ?, 1, 0)"));
      BindBlob(insert, 1, key);
      Bind(insert, 2, options_.judge.identity);
      Bind(insert, 3, query.kind());
      Bind(insert, 4, TextsJson(query.texts()));
      Bind(insert, 5, query.goal());
      Bind(insert, 6, GrammarJson(query.grammar()));
      Bind(insert, 7, query.priority());
      Bind(insert, 8, now);
      SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
      wrote_ = true;
      ++unanswered_;
      job.result.accepted.push_back({writer_->last_id(), std::move(query)});
    }
    outcome.set_kind(v1::AskOutcome::KIND_ACCEPTED);
  }
  job.result.room = options_.capacity - std::min(unanswered_, options_.capacity);
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::MakeWait(int64_t id) {
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update,
                         writer_->Prepare("UPDATE queries SET waits = 1, ask_again_unix_micros = NULL WHERE id = ?"));
  Bind(update, 1, id);
  SIBYL_RETURN_IF_ERROR(writer_->Finish(update));
  wrote_ = true;
  ++unanswered_;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyAppend(Job& job) {
  v1::Label& label = job.label;
  const absl::Time now = host_.clock.Now();
  label.set_sequence(next_sequence_);
  label.set_committed_unix_micros(absl::ToUnixMicros(now));
  // The attempt's number, and when the next one may be made.
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update,
                         writer_->Prepare("UPDATE queries SET sequence = ?1, waits = 0, attempts = attempts + 1, "
                                          "ask_again_unix_micros = CASE WHEN ?2 AND attempts + 1 < ?3 "
                                          "THEN ?4 + (?5 << min(attempts, 20)) END "
                                          "WHERE id = ?6 RETURNING attempts"));
  Bind(update, 1, static_cast<int64_t>(label.sequence()));
  Bind(update, 2, int64_t{label.outcome() == v1::OUTCOME_FAILED});
  Bind(update, 3, int64_t{options_.most_attempts});
  Bind(update, 4, label.committed_unix_micros());
  Bind(update, 5, absl::ToInt64Microseconds(options_.cool_down));
  Bind(update, 6, job.query_id);
  if (sqlite3_step(update) != SQLITE_ROW) return writer_->Error("find the query of a label");
  label.set_attempt(sqlite3_column_int(update, 0));
  SIBYL_RETURN_IF_ERROR(writer_->Finish(update));

  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * insert,
                         writer_->Prepare("INSERT INTO attempts VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  Bind(insert, 1, static_cast<int64_t>(label.sequence()));
  Bind(insert, 2, job.query_id);
  Bind(insert, 3, int64_t{label.attempt()});
  Bind(insert, 4, int64_t{label.outcome()});
  Bind(insert, 5, AnswerJson(label.answer()));
  Bind(insert, 6, label.judge());
  Bind(insert, 7, label.prompt());
  Bind(insert, 8, label.raw());
  Bind(insert, 9, static_cast<int64_t>(label.prompt_tokens()));
  Bind(insert, 10, static_cast<int64_t>(label.completion_tokens()));
  Bind(insert, 11, label.committed_unix_micros());
  SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
  wrote_ = true;
  ++next_sequence_;
  --unanswered_;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyAskAgain(Job& job) {
  const std::string outcomes = absl::StrJoin(
      job.outcomes, ", ", [](std::string* out, v1::Outcome outcome) { absl::StrAppend(out, int{outcome}); });
  const std::string where =
      job.outcomes.empty()
          ? "q.ask_again_unix_micros <= ?2 ORDER BY q.ask_again_unix_micros"
          : absl::StrCat("q.waits = 0 AND (SELECT outcome FROM attempts WHERE sequence = q.sequence) IN (", outcomes,
                         ") ORDER BY q.id");
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows,
                         writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                                       ", q.key FROM queries q WHERE q.judge = ?1 AND ", where)));
  Bind(rows, 1, options_.judge.identity);
  if (job.outcomes.empty()) Bind(rows, 2, absl::ToUnixMicros(host_.clock.Now()));
  int code = SQLITE_DONE;
  while (job.found.size() < kStep && unanswered_ + job.found.size() < options_.capacity &&
         (code = sqlite3_step(rows)) == SQLITE_ROW) {
    SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, 0));
    if (options_.judge.key(query.query) == BlobAt(rows, 6)) job.found.push_back(std::move(query));
  }
  if (code != SQLITE_ROW && code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  for (const WaitingQuery& query : job.found) SIBYL_RETURN_IF_ERROR(MakeWait(query.id));
  return absl::OkStatus();
}

absl::StatusOr<v1::LabelBatch> SqliteLabelLog::Read(const v1::LabelsRequest& request, int rows) {
  if (!request.log_id().empty() && request.log_id() != log_id_) {
    return absl::NotFoundError(
        absl::StrCat("log_id is ", request.log_id(), ", this log is ", log_id_,
                     ": from_sequence was read from another log; start again from 1, or give the "
                     "annotator the store that it came from"));
  }
  const uint64_t last = last_sequence();
  const uint64_t from = std::max<uint64_t>(request.from_sequence(), 1);
  if (from > last + 1) {
    return absl::OutOfRangeError(absl::StrCat(
        "from_sequence is ", from, " and the label log ends at ", last,
        ": it was read from another store; start again from 1, or give the annotator the store that it came from"));
  }
  v1::LabelBatch batch;
  batch.set_next_sequence(std::min(last + 1, from + rows));
  const auto read = [&]() -> absl::Status {
    MutexLock lock(read_mutex_);
    if (reader_ == nullptr) return absl::CancelledError(absl::StrCat("label store ", options_.path, " is closed"));
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row,
                           reader_->Prepare(Joined("a.sequence >= ?1 AND a.sequence < ?2 "
                                                   "AND (?3 = '' OR q.goal = ?3) AND (?4 = '' OR q.kind = ?4) "
                                                   "AND (?5 = '' OR q.grammar = ?5) AND (?6 = '' OR a.judge = ?6) "
                                                   "AND (?7 = '' OR a.prompt = ?7) ORDER BY a.sequence")));
    Bind(row, 1, static_cast<int64_t>(from));
    Bind(row, 2, static_cast<int64_t>(batch.next_sequence()));
    Bind(row, 3, request.goal());
    Bind(row, 4, request.kind());
    Bind(row, 5, request.has_grammar() ? GrammarJson(request.grammar()) : "");
    Bind(row, 6, request.judge());
    Bind(row, 7, request.prompt());
    int code;
    while ((code = sqlite3_step(row)) == SQLITE_ROW) {
      SIBYL_ASSIGN_OR_RETURN(*batch.add_labels(), LabelAt(row));
    }
    if (code != SQLITE_DONE) return reader_->Error("read labels");
    sqlite3_reset(row);
    return absl::OkStatus();
  };
  if (const absl::Status status = read(); !status.ok()) {
    // A log that cannot be read serves no follower: the process must not look healthy.
    if (!absl::IsCancelled(status)) Fail(status);
    return status;
  }
  return batch;
}

}  // namespace sibyl::annotator
