#include "annotator/store/sqlite_label_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/questions/canonical.h"
#include "annotator/store/edits.h"
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
    "a.committed_unix_micros, a.cost, a.reason, a.run, a.overridden_by";
constexpr int kLabelColumnCount = 14;

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
  label.set_cost(sqlite3_column_double(row, 10));
  label.set_reason(TextAt(row, 11));
  label.set_run(TextAt(row, 12));
  label.set_overridden_by(TextAt(row, 13));
  SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(row, kLabelColumnCount));
  label.set_query_id(query.id);
  *label.mutable_query() = std::move(query.query);
  return label;
}

std::string Joined(absl::string_view where) {
  return absl::StrCat("SELECT ", kLabelColumns, ", ", kQueryColumns,
                      ", q.key, q.judge FROM attempts a JOIN queries q ON q.id = a.query WHERE ", where);
}

}  // namespace

SqliteLabelLog::SqliteLabelLog(const SqliteLabelLogOptions& options, const Host& host)
    : options_(options), host_(host) {}

absl::StatusOr<std::unique_ptr<SqliteLabelLog>> SqliteLabelLog::Open(const SqliteLabelLogOptions& options,
                                                                     const Host& host) {
  std::unique_ptr<SqliteLabelLog> log(new SqliteLabelLog(options, host));
  SIBYL_RETURN_IF_ERROR(log->Load());
  log->gauges_ = std::make_unique<LogGauges>(host.metrics);
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
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * served, writer_->Prepare("SELECT served FROM served WHERE judge = ?"));
  Bind(served, 1, options_.judge.identity);
  if (sqlite3_step(served) == SQLITE_ROW) key_served_ = TextAt(served, 0);
  sqlite3_reset(served);
  {
    MutexLock lock(mutex_);
    served_ = key_served_;
  }
  SIBYL_RETURN_IF_ERROR(RekeyVersion1());
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

absl::Status SqliteLabelLog::RekeyVersion1() {
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
      const std::string key = options_.judge.key(query.query, key_served_);
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
    if (options_.judge.key(query.query, key_served_) == BlobAt(rows, 6)) found_waiting_.push_back(std::move(query));
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

void SqliteLabelLog::AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) {
  Job job;
  job.asked_again = std::move(done);
  Enqueue(std::move(job), true);
}

void SqliteLabelLog::Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) {
  if (const absl::Status status = CheckEdit(request); !status.ok()) return done(status);
  Job job;
  job.edit = std::move(request);
  job.edited = std::move(done);
  Enqueue(std::move(job), true);
}

void SqliteLabelLog::AddRequest(const RequestEnd& request) {
  MutexLock lock(mutex_);
  AddTo(spending_, request, host_.clock.Now());
}

absl::StatusOr<v1::SpendingResponse> SqliteLabelLog::Spending() {
  v1::SpendingResponse response;
  MutexLock lock(read_mutex_);
  if (reader_ == nullptr) return absl::CancelledError(absl::StrCat("label store ", options_.path, " is closed"));
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row,
                         reader_->Prepare("SELECT day, endpoint, model, goal, run, requests, failed_requests, "
                                          "prompt_tokens, completion_tokens, cost FROM spending "
                                          "ORDER BY day, endpoint, model, goal, run"));
  int code;
  while ((code = sqlite3_step(row)) == SQLITE_ROW) {
    v1::SpendingResponse::Row& spent = *response.add_rows();
    spent.set_day(sqlite3_column_int64(row, 0));
    spent.set_endpoint(TextAt(row, 1));
    spent.set_model(TextAt(row, 2));
    spent.set_goal(TextAt(row, 3));
    spent.set_run(TextAt(row, 4));
    spent.set_requests(sqlite3_column_int64(row, 5));
    spent.set_failed_requests(sqlite3_column_int64(row, 6));
    spent.set_prompt_tokens(sqlite3_column_int64(row, 7));
    spent.set_completion_tokens(sqlite3_column_int64(row, 8));
    spent.set_cost(sqlite3_column_double(row, 9));
  }
  if (code != SQLITE_DONE) return reader_->Error("read the spending");
  sqlite3_reset(row);
  return response;
}

std::string SqliteLabelLog::served() const {
  MutexLock lock(mutex_);
  return served_;
}

void SqliteLabelLog::SetServed(const std::string& served) {
  Job job;
  job.served = served;
  Enqueue(std::move(job), false);
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
      if (jobs_.empty() && spending_.empty()) {
        if (stop.stop_requested()) return absl::OkStatus();
        continue;
      }
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
      MutexLock lock(mutex_);
      spending_.clear();  // nothing can be written any more
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
    SIBYL_RETURN_IF_ERROR(job.asked         ? ApplyAsk(job)
                          : job.appended    ? ApplyAppend(job)
                          : job.asked_again ? ApplyAskAgain(job)
                          : job.edited      ? ApplyEdit(job)
                                            : ApplyServed(*job.served));
  }
  SIBYL_RETURN_IF_ERROR(ApplySpending());
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
    const std::string key = options_.judge.key(query, key_served_);
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

absl::StatusOr<bool> SqliteLabelLog::WaitsHere(int64_t id) {
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row,
                         writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                                       ", q.key, q.waits, q.judge FROM queries q WHERE q.id = ?")));
  Bind(row, 1, id);
  if (sqlite3_step(row) != SQLITE_ROW) return writer_->Error("find a query");
  bool here = sqlite3_column_int(row, 7) != 0 && TextAt(row, 8) == options_.judge.identity;
  if (here) {
    SIBYL_ASSIGN_OR_RETURN(const WaitingQuery query, QueryAt(row, 0));
    here = options_.judge.key(query.query, key_served_) == BlobAt(row, 6);
  }
  sqlite3_reset(row);
  return here;
}

absl::Status SqliteLabelLog::ApplyAppend(Job& job) {
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row, writer_->Prepare("SELECT waits, overridden FROM queries WHERE id = ?"));
  Bind(row, 1, job.query_id);
  if (sqlite3_step(row) != SQLITE_ROW) return writer_->Error("find the query of a label");
  const bool waits = sqlite3_column_int(row, 0) != 0;
  const bool overridden = sqlite3_column_int(row, 1) != 0;
  sqlite3_reset(row);
  if (overridden) {
    job.error = absl::AlreadyExistsError(absl::StrCat("query ", job.query_id, " has a person's label"));
    return absl::OkStatus();
  }
  job.label.set_run(options_.run);
  SIBYL_RETURN_IF_ERROR(Insert(job.query_id, &job.label));
  if (waits) --unanswered_;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::Insert(int64_t query_id, v1::Label* label) {
  label->set_sequence(next_sequence_);
  label->set_query_id(query_id);
  label->set_committed_unix_micros(absl::ToUnixMicros(host_.clock.Now()));
  // The attempt's number, and when the next one may be made.
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update,
                         writer_->Prepare("UPDATE queries SET sequence = ?1, waits = 0, attempts = attempts + 1, "
                                          "ask_again_unix_micros = CASE WHEN ?2 AND attempts + 1 < ?3 "
                                          "THEN ?4 + (?5 << min(attempts, 20)) END, overridden = ?6 "
                                          "WHERE id = ?7 RETURNING attempts"));
  Bind(update, 1, static_cast<int64_t>(label->sequence()));
  Bind(update, 2, int64_t{label->outcome() == v1::OUTCOME_FAILED});
  Bind(update, 3, int64_t{options_.most_attempts});
  Bind(update, 4, label->committed_unix_micros());
  Bind(update, 5, absl::ToInt64Microseconds(options_.cool_down));
  Bind(update, 6, int64_t{!label->overridden_by().empty()});
  Bind(update, 7, query_id);
  if (sqlite3_step(update) != SQLITE_ROW) return writer_->Error("find the query of a label");
  label->set_attempt(sqlite3_column_int(update, 0));
  SIBYL_RETURN_IF_ERROR(writer_->Finish(update));

  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * insert,
      writer_->Prepare("INSERT INTO attempts(sequence, query, attempt, outcome, answer, judge, prompt, raw, "
                       "prompt_tokens, completion_tokens, committed_unix_micros, cost, reason, run, overridden_by) "
                       "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  Bind(insert, 1, static_cast<int64_t>(label->sequence()));
  Bind(insert, 2, query_id);
  Bind(insert, 3, int64_t{label->attempt()});
  Bind(insert, 4, int64_t{label->outcome()});
  Bind(insert, 5, AnswerJson(label->answer()));
  Bind(insert, 6, label->judge());
  Bind(insert, 7, label->prompt());
  Bind(insert, 8, label->raw());
  Bind(insert, 9, static_cast<int64_t>(label->prompt_tokens()));
  Bind(insert, 10, static_cast<int64_t>(label->completion_tokens()));
  Bind(insert, 11, label->committed_unix_micros());
  Bind(insert, 12, label->cost());
  Bind(insert, 13, label->reason());
  Bind(insert, 14, label->run());
  Bind(insert, 15, label->overridden_by());
  SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
  wrote_ = true;
  ++next_sequence_;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyAskAgain(Job& job) {
  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * rows,
      writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                    ", q.key FROM queries q WHERE q.judge = ?1 AND q.ask_again_unix_micros <= ?2 "
                                    "ORDER BY q.ask_again_unix_micros")));
  Bind(rows, 1, options_.judge.identity);
  Bind(rows, 2, absl::ToUnixMicros(host_.clock.Now()));
  int code = SQLITE_DONE;
  while (job.found.size() < kStep && unanswered_ + job.found.size() < options_.capacity &&
         (code = sqlite3_step(rows)) == SQLITE_ROW) {
    SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, 0));
    if (options_.judge.key(query.query, key_served_) == BlobAt(rows, 6)) job.found.push_back(std::move(query));
  }
  if (code != SQLITE_ROW && code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  for (const WaitingQuery& query : job.found) SIBYL_RETURN_IF_ERROR(MakeWait(query.id));
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyServed(const std::string& served) {
  if (served == key_served_) return absl::OkStatus();
  const std::string which = key_served_.empty() ? "1" : "q.waits = 1";
  SIBYL_RETURN_IF_ERROR(Rekey(which, key_served_, served));
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * upsert,
                         writer_->Prepare("INSERT INTO served VALUES(?, ?) ON CONFLICT DO UPDATE SET "
                                          "served = excluded.served"));
  Bind(upsert, 1, options_.judge.identity);
  Bind(upsert, 2, served);
  SIBYL_RETURN_IF_ERROR(writer_->Finish(upsert));
  wrote_ = true;
  key_served_ = served;
  MutexLock lock(mutex_);
  served_ = served;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::Rekey(const std::string& which, const std::string& was, const std::string& is) {
  int64_t after = 0;
  for (bool more = true; more;) {
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows,
                           writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns,
                                                         ", q.key FROM queries q WHERE q.judge = ? AND q.id > ? ",
                                                         "AND ", which, " ORDER BY q.id LIMIT ", kStep)));
    Bind(rows, 1, options_.judge.identity);
    Bind(rows, 2, after);
    std::vector<std::pair<int64_t, std::string>> keys;
    size_t seen = 0;
    int code;
    while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
      SIBYL_ASSIGN_OR_RETURN(const WaitingQuery query, QueryAt(rows, 0));
      ++seen;
      after = query.id;
      if (options_.judge.key(query.query, was) != BlobAt(rows, 6)) continue;  // another prompt's
      keys.emplace_back(query.id, options_.judge.key(query.query, is));
    }
    if (code != SQLITE_DONE) return writer_->Error("read");
    sqlite3_reset(rows);
    for (const auto& [id, key] : keys) {
      // Where that server has answered the question before, the query keeps its key and is answered once more.
      SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * update,
                             writer_->Prepare("UPDATE OR IGNORE queries SET key = ? WHERE id = ?"));
      BindBlob(update, 1, key);
      Bind(update, 2, id);
      SIBYL_RETURN_IF_ERROR(writer_->Finish(update));
    }
    more = seen == kStep;
  }
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyEdit(Job& job) {
  switch (job.edit.edit_case()) {
    case v1::EditRequest::kRetry:
      return ApplyRetry(job.edit.retry(), job);
    case v1::EditRequest::kOverride:
      return ApplyOverride(job.edit.override(), job);
    case v1::EditRequest::kImport:
      return ApplyImport(job.edit.import(), job);
    default:
      return ApplyReparse(job);
  }
}

absl::Status SqliteLabelLog::ApplyRetry(const v1::RetryQueries& retry, Job& job) {
  std::string where = absl::StrCat(
      "q.waits = 0 AND q.overridden = 0 AND (SELECT outcome FROM attempts WHERE sequence = q.sequence) IN (",
      absl::StrJoin(retry.outcomes(), ", "), ")");
  if (!retry.query_ids().empty())
    absl::StrAppend(&where, " AND q.id IN (", absl::StrJoin(retry.query_ids(), ", "), ")");
  absl::StrAppend(&where, " ORDER BY ", retry.sample() > 0 ? "random()" : "q.id");
  SIBYL_ASSIGN_OR_RETURN(
      sqlite3_stmt * rows,
      writer_->Prepare(absl::StrCat("SELECT ", kQueryColumns, ", q.key, q.judge FROM queries q WHERE ", where)));
  std::vector<int64_t> of_others;
  int code = SQLITE_DONE;
  const auto full = [&] {
    return (retry.sample() > 0 && job.changed.waiting.size() + of_others.size() >= retry.sample()) ||
           unanswered_ + job.changed.waiting.size() >= options_.capacity;
  };
  while (!full() && (code = sqlite3_step(rows)) == SQLITE_ROW) {
    SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, 0));
    if (TextAt(rows, 7) == options_.judge.identity && options_.judge.key(query.query, key_served_) == BlobAt(rows, 6)) {
      job.changed.waiting.push_back(std::move(query));
    } else {
      of_others.push_back(query.id);
    }
  }
  if (code != SQLITE_ROW && code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  for (const WaitingQuery& query : job.changed.waiting) SIBYL_RETURN_IF_ERROR(MakeWait(query.id));
  for (const int64_t id : of_others) {
    SIBYL_RETURN_IF_ERROR(MakeWait(id));
    --unanswered_;
    ++set_aside_;
  }
  job.changed.changed = job.changed.waiting.size() + of_others.size();
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyOverride(const v1::OverrideLabel& override, Job& job) {
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * row, writer_->Prepare(Joined("q.id = ? AND a.sequence = q.sequence")));
  Bind(row, 1, override.query_id());
  const int code = sqlite3_step(row);
  if (code == SQLITE_DONE) {
    job.error = absl::NotFoundError(
        absl::StrCat("query ", override.query_id(), " is not in the store, or waits for its first answer"));
    return absl::OkStatus();
  }
  if (code != SQLITE_ROW) return writer_->Error("read");
  SIBYL_ASSIGN_OR_RETURN(const v1::Label last, LabelAt(row));
  sqlite3_reset(row);
  absl::StatusOr<v1::Label> label = Overridden(last, override);
  if (!label.ok()) {
    job.error = label.status();
    return absl::OkStatus();
  }
  SIBYL_ASSIGN_OR_RETURN(const bool waits, WaitsHere(override.query_id()));
  label->set_run(options_.run);
  SIBYL_RETURN_IF_ERROR(Insert(override.query_id(), &*label));
  if (waits) --unanswered_;
  job.changed.changed = 1;
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyImport(const v1::ImportLabels& import, Job& job) {
  for (const v1::Label& imported : import.labels()) {
    const std::string key = ImportKey(imported);
    SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * find,
                           writer_->Prepare("SELECT id FROM queries WHERE key = ? AND sequence IS NOT NULL"));
    BindBlob(find, 1, key);
    const int code = sqlite3_step(find);
    sqlite3_reset(find);
    if (code == SQLITE_ROW) continue;
    if (code != SQLITE_DONE) return writer_->Error("read");
    v1::Label label = imported;
    SIBYL_ASSIGN_OR_RETURN(
        sqlite3_stmt * insert,
        writer_->Prepare("INSERT INTO queries(key, judge, kind, texts, goal, grammar, priority, "
                         "accepted_unix_micros, waits, attempts) VALUES(?, ?, ?, ?, ?, ?, 0, ?, 0, 0) "
                         "ON CONFLICT DO UPDATE SET waits = waits RETURNING id"));
    BindBlob(insert, 1, key);
    Bind(insert, 2, ImportJudge(imported));
    Bind(insert, 3, label.query().kind());
    Bind(insert, 4, TextsJson(label.query().texts()));
    Bind(insert, 5, label.query().goal());
    Bind(insert, 6, GrammarJson(label.query().grammar()));
    Bind(insert, 7, absl::ToUnixMicros(host_.clock.Now()));
    if (sqlite3_step(insert) != SQLITE_ROW) return writer_->Error("import a query");
    const int64_t id = sqlite3_column_int64(insert, 0);
    SIBYL_RETURN_IF_ERROR(writer_->Finish(insert));
    SIBYL_ASSIGN_OR_RETURN(const bool waits, WaitsHere(id));
    SIBYL_RETURN_IF_ERROR(Insert(id, &label));
    if (waits) --unanswered_;
    ++job.changed.changed;
  }
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplyReparse(Job& job) {
  std::vector<v1::Label> found;
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * rows,
                         writer_->Prepare(Joined(absl::StrCat(
                             "a.sequence = q.sequence AND q.waits = 0 AND q.overridden = 0 AND "
                             "a.outcome IN (",
                             int{v1::OUTCOME_ABSTAINED}, ", ", int{v1::OUTCOME_UNPARSABLE}, ") ORDER BY a.sequence"))));
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
    SIBYL_ASSIGN_OR_RETURN(const v1::Label label, LabelAt(rows));
    std::optional<v1::Label> again = Reparsed(label);
    if (!again.has_value()) continue;
    again->set_query_id(label.query_id());
    found.push_back(*std::move(again));
  }
  if (code != SQLITE_DONE) return writer_->Error("read");
  sqlite3_reset(rows);
  for (v1::Label& label : found) {
    label.set_run(options_.run);
    SIBYL_RETURN_IF_ERROR(Insert(label.query_id(), &label));
  }
  job.changed.changed = found.size();
  return absl::OkStatus();
}

absl::Status SqliteLabelLog::ApplySpending() {
  SpendingTotals totals;
  {
    MutexLock lock(mutex_);
    totals.swap(spending_);
  }
  for (const auto& [what, total] : totals) {
    const auto& [day, endpoint, model, goal] = what;
    SIBYL_ASSIGN_OR_RETURN(
        sqlite3_stmt * upsert,
        writer_->Prepare("INSERT INTO spending VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                         "requests = requests + excluded.requests, "
                         "failed_requests = failed_requests + excluded.failed_requests, "
                         "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                         "completion_tokens = completion_tokens + excluded.completion_tokens, "
                         "cost = cost + excluded.cost"));
    Bind(upsert, 1, day);
    Bind(upsert, 2, endpoint);
    Bind(upsert, 3, model);
    Bind(upsert, 4, goal);
    Bind(upsert, 5, options_.run);
    Bind(upsert, 6, static_cast<int64_t>(total.requests));
    Bind(upsert, 7, static_cast<int64_t>(total.failed));
    Bind(upsert, 8, static_cast<int64_t>(total.prompt_tokens));
    Bind(upsert, 9, static_cast<int64_t>(total.completion_tokens));
    Bind(upsert, 10, total.cost);
    SIBYL_RETURN_IF_ERROR(writer_->Finish(upsert));
    wrote_ = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::LabelBatch> SqliteLabelLog::Read(const v1::LabelsRequest& request, int rows) {
  const uint64_t last = last_sequence();
  SIBYL_RETURN_IF_ERROR(CheckPlace(request, log_id_, last));
  const uint64_t from = std::max<uint64_t>(request.from_sequence(), 1);
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
      v1::Label& label = *batch.add_labels();
      SIBYL_ASSIGN_OR_RETURN(label, LabelAt(row));
      if (!request.with_keys()) continue;
      label.set_key(BlobAt(row, kLabelColumnCount + 6));
      label.set_judge_identity(TextAt(row, kLabelColumnCount + 7));
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
