#include "annotator/store/postgres_label_log.h"

#include <algorithm>
#include <optional>

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

constexpr size_t kMaxJobs = 1000;  // calls that wait for the writing thread, at most; answers are not counted
constexpr int kStep = 1000;        // queries that are given new keys in one step
constexpr absl::Duration kCountEvery = absl::Seconds(1);

// The columns are those of the SQLite store (sqlite_store.cc), and those that several annotators need.
constexpr char kSchema[] = R"sql(
CREATE SCHEMA sibyl;
CREATE TABLE sibyl.log(                     -- one row; who changes the log locks it
  log_id TEXT NOT NULL,
  version BIGINT NOT NULL,
  next_sequence BIGINT NOT NULL
);
CREATE TABLE sibyl.annotators(
  id BIGSERIAL PRIMARY KEY,
  run TEXT NOT NULL,
  alive_until TIMESTAMPTZ NOT NULL          -- what it holds is anyone's then
);
CREATE TABLE sibyl.queries(
  id BIGSERIAL PRIMARY KEY,
  key BYTEA NOT NULL UNIQUE,
  judge TEXT NOT NULL,
  prompt TEXT NOT NULL,                     -- of the annotators that may take it
  kind TEXT NOT NULL,
  texts TEXT NOT NULL,
  goal TEXT NOT NULL,
  grammar TEXT NOT NULL,
  priority DOUBLE PRECISION NOT NULL,
  accepted_unix_micros BIGINT NOT NULL,
  waits BOOLEAN NOT NULL,
  attempts BIGINT NOT NULL,
  sequence BIGINT,
  ask_again_unix_micros BIGINT,
  overridden BOOLEAN NOT NULL DEFAULT false,
  owner BIGINT                              -- the annotator that holds it; NULL: none
);
CREATE INDEX waiting ON sibyl.queries(judge, prompt, priority DESC, id) WHERE waits;
CREATE INDEX failed ON sibyl.queries(judge, ask_again_unix_micros) WHERE ask_again_unix_micros IS NOT NULL;
CREATE TABLE sibyl.attempts(
  sequence BIGINT PRIMARY KEY,
  query BIGINT NOT NULL REFERENCES sibyl.queries(id),
  attempt BIGINT NOT NULL,
  outcome BIGINT NOT NULL,
  answer TEXT NOT NULL,
  judge TEXT NOT NULL,
  prompt TEXT NOT NULL,
  raw TEXT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL,
  committed_unix_micros BIGINT NOT NULL,
  cost DOUBLE PRECISION NOT NULL,
  reason TEXT NOT NULL,
  run TEXT NOT NULL,
  overridden_by TEXT NOT NULL,
  UNIQUE(query, attempt)
);
CREATE TABLE sibyl.spending(
  day BIGINT NOT NULL,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  goal TEXT NOT NULL,
  run TEXT NOT NULL,
  requests BIGINT NOT NULL,
  failed_requests BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL,
  cost DOUBLE PRECISION NOT NULL,
  PRIMARY KEY(day, endpoint, model, goal, run)
);
CREATE TABLE sibyl.served(judge TEXT PRIMARY KEY, served TEXT NOT NULL);
CREATE VIEW sibyl.labels AS                 -- the last attempt at each query, to be read
SELECT a.sequence, q.id AS query, q.kind, q.texts::jsonb ->> 'caption' AS caption, q.texts, q.goal,
  CASE a.outcome WHEN 1 THEN 'answered' WHEN 2 THEN 'abstained' WHEN 3 THEN 'unparsable' ELSE 'failed' END AS outcome,
  q.grammar::jsonb -> 'choice' ->> best.at AS label, best.probability,
  a.judge, a.prompt, a.attempt, a.prompt_tokens, a.completion_tokens, a.cost, a.reason, a.run, a.overridden_by, a.raw,
  to_timestamp(a.committed_unix_micros / 1000000.0) AS committed
FROM sibyl.queries q JOIN sibyl.attempts a ON a.sequence = q.sequence LEFT JOIN LATERAL (
  SELECT (d.place - 1)::int AS at, d.value::double precision AS probability
  FROM jsonb_array_elements(nullif(a.answer, '')::jsonb -> 'distribution') WITH ORDINALITY d(value, place)
  ORDER BY 2 DESC, 1 LIMIT 1) best ON true;
)sql";

constexpr char kQueryColumns[] = "q.id, q.kind, q.texts, q.goal, q.grammar, q.priority";
constexpr int kQueryColumnCount = 6;
constexpr char kLabelColumns[] =
    "a.sequence, a.attempt, a.outcome, a.answer, a.judge, a.prompt, a.raw, a.prompt_tokens, a.completion_tokens, "
    "a.committed_unix_micros, a.cost, a.reason, a.run, a.overridden_by";
constexpr int kLabelColumnCount = 14;

absl::StatusOr<WaitingQuery> QueryAt(const PostgresRows& rows, int row, int at) {
  WaitingQuery result;
  result.id = rows.Integer(row, at);
  v1::Query& query = result.query;
  query.set_kind(rows.Text(row, at + 1));
  query.set_goal(rows.Text(row, at + 3));
  query.set_priority(rows.Real(row, at + 5));
  if (!ParseTextsJson(rows.Text(row, at + 2), query.mutable_texts()) ||
      !ParseGrammarJson(rows.Text(row, at + 4), query.mutable_grammar())) {
    return absl::DataLossError(absl::StrCat("query ", result.id, " of the label store has texts or a grammar that are ",
                                            "no JSON of the annotator's; the row was changed by hand or is damaged"));
  }
  return result;
}

absl::StatusOr<v1::Label> LabelAt(const PostgresRows& rows, int row) {
  v1::Label label;
  label.set_sequence(rows.Integer(row, 0));
  label.set_attempt(static_cast<uint32_t>(rows.Integer(row, 1)));
  label.set_outcome(static_cast<v1::Outcome>(rows.Integer(row, 2)));
  if (label.outcome() == v1::OUTCOME_ANSWERED && !ParseAnswerJson(rows.Text(row, 3), label.mutable_answer())) {
    return absl::DataLossError(absl::StrCat("label ", label.sequence(), " of the label store has an answer that is no ",
                                            "JSON of the annotator's; the row was changed by hand or is damaged"));
  }
  label.set_judge(rows.Text(row, 4));
  label.set_prompt(rows.Text(row, 5));
  label.set_raw(rows.Text(row, 6));
  label.set_prompt_tokens(rows.Integer(row, 7));
  label.set_completion_tokens(rows.Integer(row, 8));
  label.set_committed_unix_micros(rows.Integer(row, 9));
  label.set_cost(rows.Real(row, 10));
  label.set_reason(rows.Text(row, 11));
  label.set_run(rows.Text(row, 12));
  label.set_overridden_by(rows.Text(row, 13));
  SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, row, kLabelColumnCount));
  label.set_query_id(query.id);
  *label.mutable_query() = std::move(query.query);
  return label;
}

std::string Joined(absl::string_view where) {
  return absl::StrCat("SELECT ", kLabelColumns, ", ", kQueryColumns,
                      ", q.key, q.judge FROM sibyl.attempts a JOIN sibyl.queries q ON q.id = a.query WHERE ", where);
}

}  // namespace

PostgresLabelLog::PostgresLabelLog(const PostgresLabelLogOptions& options, const Host& host)
    : options_(options), host_(host) {}

absl::StatusOr<std::unique_ptr<PostgresLabelLog>> PostgresLabelLog::Open(const PostgresLabelLogOptions& options,
                                                                         const Host& host) {
  std::unique_ptr<PostgresLabelLog> log(new PostgresLabelLog(options, host));
  SIBYL_RETURN_IF_ERROR(log->Load());
  log->gauges_ = std::make_unique<LogGauges>(host.metrics);
  log->heartbeat_ = host.heartbeats.Add("store", kLongestSilence);
  log->worker_ = std::make_unique<Worker>(
      "store", [log = log.get()](const std::stop_token& stop) { return log->Write(stop); }, host.fail);
  return log;
}

absl::Status PostgresLabelLog::Load() {
  SIBYL_ASSIGN_OR_RETURN(writer_, PostgresConnection::Open(options_.url));
  // Annotators that start together make the tables one after the other.
  SIBYL_RETURN_IF_ERROR(writer_->Run("BEGIN; SELECT pg_advisory_xact_lock(1399418476)"));
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows made, writer_->Query("SELECT to_regclass('sibyl.log') IS NOT NULL"));
  if (!made.Bool(0, 0)) {
    SIBYL_RETURN_IF_ERROR(writer_->Run(
        absl::StrCat(kSchema, "INSERT INTO sibyl.log VALUES('", NewLogId(), "', ", kStoreVersion, ", 1)")));
  }
  SIBYL_RETURN_IF_ERROR(writer_->Run("COMMIT"));
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows log,
                         writer_->Query("SELECT log_id, version, next_sequence - 1 FROM sibyl.log"));
  if (log.size() != 1 || log.Integer(0, 1) != kStoreVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "label store ", writer_->shown_url(), " has version ", log.size() == 1 ? log.Integer(0, 1) : -1,
        ", this annotator reads version ", kStoreVersion, "; use the build that wrote it, or name another database"));
  }
  log_id_ = log.Text(0, 0);
  last_sequence_ = log.Integer(0, 2);
  SIBYL_ASSIGN_OR_RETURN(
      const PostgresRows id,
      writer_->Query("INSERT INTO sibyl.annotators(run, alive_until) VALUES($1, now() + $2::double precision * "
                     "interval '1 second') RETURNING id",
                     PostgresValues().Add(options_.run).Add(absl::ToDoubleSeconds(options_.lease))));
  annotator_id_ = id.Integer(0, 0);
  renewed_ = host_.clock.Now();
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows served, writer_->Query("SELECT served FROM sibyl.served WHERE judge = $1",
                                                                   PostgresValues().Add(options_.judge.identity)));
  if (served.size() == 1) key_served_ = served.Text(0, 0);
  {
    MutexLock lock(mutex_);
    served_ = key_served_;
  }
  SIBYL_RETURN_IF_ERROR(Count());
  SIBYL_ASSIGN_OR_RETURN(auto reader, PostgresConnection::Open(options_.url));
  MutexLock lock(read_mutex_);
  reader_ = std::move(reader);
  return absl::OkStatus();
}

PostgresLabelLog::~PostgresLabelLog() {
  if (const absl::Status status = Close(); !status.ok()) spdlog::error("{}", status.message());
}

absl::Status PostgresLabelLog::Close() {
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
  if (writer_ != nullptr && status.ok()) {
    // What is held is for others now.
    status.Update(
        writer_->Run(absl::StrCat("UPDATE sibyl.queries SET owner = NULL WHERE waits AND owner = ", annotator_id_,
                                  "; DELETE FROM sibyl.annotators WHERE id = ", annotator_id_)));
  }
  writer_.reset();
  MutexLock lock(read_mutex_);
  reader_.reset();
  return status;
}

void PostgresLabelLog::Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) {
  Job job;
  job.queries = std::move(queries);
  job.asked = std::move(done);
  Enqueue(std::move(job), true);
}

void PostgresLabelLog::Append(const WaitingQuery& query, v1::Label label,
                              std::function<void(absl::StatusOr<v1::Label>)> done) {
  Job job;
  job.query_id = query.id;
  job.label = std::move(label);
  *job.label.mutable_query() = query.query;
  job.appended = std::move(done);
  Enqueue(std::move(job), false);
}

void PostgresLabelLog::AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) {
  Job job;
  job.asked_again = std::move(done);
  Enqueue(std::move(job), true);
}

void PostgresLabelLog::Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) {
  if (const absl::Status status = CheckEdit(request); !status.ok()) return done(status);
  Job job;
  job.edit = std::move(request);
  job.edited = std::move(done);
  Enqueue(std::move(job), true);
}

void PostgresLabelLog::AddRequest(const RequestEnd& request) {
  MutexLock lock(mutex_);
  AddTo(spending_, request, host_.clock.Now());
}

std::string PostgresLabelLog::served() const {
  MutexLock lock(mutex_);
  return served_;
}

void PostgresLabelLog::SetServed(const std::string& served) {
  Job job;
  job.served = served;
  Enqueue(std::move(job), false);
}

void PostgresLabelLog::Follow(LogEvents events) {
  MutexLock lock(mutex_);
  events_ = std::move(events);
}

void PostgresLabelLog::Enqueue(Job job, bool bounded) {
  absl::Status refused;
  {
    MutexLock lock(mutex_);
    if (!failed_.ok()) {
      refused = failed_;
    } else if (closed_) {
      refused = absl::UnavailableError("the label store is closed");
    } else if (bounded && jobs_.size() >= kMaxJobs) {
      refused = absl::UnavailableError(absl::StrCat("label store: ", kMaxJobs, " calls wait already; try again later"));
    } else {
      jobs_.push_back(std::move(job));
      work_.NotifyOne();
    }
  }
  if (!refused.ok()) job.Refuse(refused);
}

void PostgresLabelLog::Fail(const absl::Status& reason) {
  {
    MutexLock lock(mutex_);
    if (!failed_.ok()) return;
    failed_ = reason;
  }
  host_.fail(reason);
}

absl::Status PostgresLabelLog::Write(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, work_);
  absl::Time look_at = host_.clock.Now();
  while (true) {
    heartbeat_->Beat();
    std::vector<Job> jobs;
    absl::Status failed;
    bool spent = false;
    {
      MutexLock lock(mutex_);
      const absl::Duration left = look_at - host_.clock.Now();
      if (jobs_.empty() && !stop.stop_requested() && left > absl::ZeroDuration()) {
        host_.clock.WaitFor(work_, mutex_, std::min(left, options_.poll));
      }
      jobs.assign(std::make_move_iterator(jobs_.begin()), std::make_move_iterator(jobs_.end()));
      jobs_.clear();
      failed = failed_;
      spent = !spending_.empty();
      if (jobs.empty() && stop.stop_requested() && (!spent || !failed.ok())) return absl::OkStatus();
    }
    gauges_->jobs.Set(static_cast<double>(jobs.size()));
    if (failed.ok() && (!jobs.empty() || spent)) failed = Apply(jobs);
    // Answers make room for more queries, and a look tells what others have done.
    if (failed.ok() && (!jobs.empty() || host_.clock.Now() >= look_at) && !stop.stop_requested()) {
      failed = Look();
      look_at = host_.clock.Now() + options_.poll;
    }
    if (!failed.ok()) {
      Fail(failed);
      for (Job& job : jobs) job.Refuse(failed);
      MutexLock lock(mutex_);
      spending_.clear();
      continue;
    }
    gauges_->waiting.Set(static_cast<double>(waiting_));
    gauges_->labels.Set(static_cast<double>(last_sequence_));
    gauges_->jobs.Set(0);
    for (Job& job : jobs) job.Succeed();
  }
}

absl::Status PostgresLabelLog::Apply(std::vector<Job>& jobs) {
  const auto start = std::chrono::steady_clock::now();
  SIBYL_RETURN_IF_ERROR(writer_->Run("BEGIN"));
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows log, writer_->Query("SELECT next_sequence FROM sibyl.log FOR UPDATE"));
  if (log.size() != 1) return absl::DataLossError("label store: the table sibyl.log has lost its row");
  const uint64_t first = log.Integer(0, 0);
  next_sequence_ = first;
  others_wrote_ |= first > last_sequence_ + 1;
  // Another annotator may have heard what is served.
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows served, writer_->Query("SELECT served FROM sibyl.served WHERE judge = $1",
                                                                   PostgresValues().Add(options_.judge.identity)));
  if (served.size() == 1) key_served_ = served.Text(0, 0);
  if (std::any_of(jobs.begin(), jobs.end(), [](const Job& job) { return job.asked != nullptr; })) {
    SIBYL_RETURN_IF_ERROR(Count());
  }
  unanswered_ = waiting_;
  for (Job& job : jobs) {
    SIBYL_RETURN_IF_ERROR(job.asked         ? ApplyAsk(job)
                          : job.appended    ? ApplyAppend(job)
                          : job.asked_again ? ApplyAskAgain()
                          : job.edited      ? ApplyEdit(job)
                                            : ApplyServed(*job.served));
  }
  SIBYL_RETURN_IF_ERROR(ApplySpending());
  if (next_sequence_ != first) {
    SIBYL_RETURN_IF_ERROR(writer_
                              ->Query("UPDATE sibyl.log SET next_sequence = $1",
                                      PostgresValues().Add(static_cast<int64_t>(next_sequence_)))
                              .status());
  }
  SIBYL_RETURN_IF_ERROR(writer_->Run("COMMIT"));
  last_sequence_.store(next_sequence_ - 1, std::memory_order_release);
  waiting_ = unanswered_;
  {
    MutexLock lock(mutex_);
    served_ = key_served_;
  }
  gauges_->commits.Increment();
  gauges_->commit_seconds.Observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplyAsk(Job& job) {
  const int64_t now = NowMicros();
  for (const v1::Query& query : job.queries) {
    v1::AskOutcome& outcome = job.result.outcomes.emplace_back();
    outcome.set_tag(query.tag());
    const std::string key = options_.judge.key(query, key_served_);
    SIBYL_ASSIGN_OR_RETURN(
        const PostgresRows found,
        writer_->Query("SELECT id, waits, coalesce(sequence, 0), coalesce(ask_again_unix_micros <= $1::bigint, false), "
                       "prompt FROM sibyl.queries WHERE key = $2",
                       PostgresValues().Add(now).AddBytes(key)));
    const bool known = found.size() == 1;
    if (known && found.Bool(0, 1)) {
      outcome.set_kind(v1::AskOutcome::KIND_DUPLICATE);
      if (found.Text(0, 4) == options_.judge.prompt) continue;
      // A prompt of another name renders it alike: this one's annotators take it too.
      SIBYL_RETURN_IF_ERROR(writer_
                                ->Query("UPDATE sibyl.queries SET prompt = $1 WHERE id = $2",
                                        PostgresValues().Add(options_.judge.prompt).Add(found.Integer(0, 0)))
                                .status());
      continue;
    }
    if (known && !found.Bool(0, 3)) {
      SIBYL_ASSIGN_OR_RETURN(const PostgresRows rows,
                             writer_->Query(Joined("a.sequence = $1"), PostgresValues().Add(found.Integer(0, 2))));
      if (rows.size() != 1) return absl::DataLossError("label store: a query has lost its label");
      SIBYL_ASSIGN_OR_RETURN(*outcome.mutable_label(), LabelAt(rows, 0));
      outcome.set_kind(v1::AskOutcome::KIND_KNOWN);
      continue;
    }
    if (unanswered_ >= options_.capacity) {
      outcome.set_kind(v1::AskOutcome::KIND_FULL);
      continue;
    }
    ++unanswered_;
    outcome.set_kind(v1::AskOutcome::KIND_ACCEPTED);
    if (known) {
      SIBYL_RETURN_IF_ERROR(writer_
                                ->Query("UPDATE sibyl.queries SET waits = true, ask_again_unix_micros = NULL, owner = "
                                        "NULL, prompt = $1 WHERE id = $2",
                                        PostgresValues().Add(options_.judge.prompt).Add(found.Integer(0, 0)))
                                .status());
      continue;
    }
    SIBYL_RETURN_IF_ERROR(writer_
                              ->Query("INSERT INTO sibyl.queries(key, judge, prompt, kind, texts, goal, grammar, "
                                      "priority, accepted_unix_micros, waits, attempts) "
                                      "VALUES($1, $2, $3, $4, $5, $6, $7, $8, $9, true, 0)",
                                      PostgresValues()
                                          .AddBytes(key)
                                          .Add(options_.judge.identity)
                                          .Add(options_.judge.prompt)
                                          .Add(query.kind())
                                          .Add(TextsJson(query.texts()))
                                          .Add(query.goal())
                                          .Add(GrammarJson(query.grammar()))
                                          .Add(query.priority())
                                          .Add(now))
                              .status());
  }
  job.result.room = options_.capacity - std::min(unanswered_, options_.capacity);
  return absl::OkStatus();
}

absl::StatusOr<bool> PostgresLabelLog::Insert(int64_t query_id, bool must_wait, v1::Label* label) {
  label->set_sequence(next_sequence_);
  label->set_query_id(query_id);
  label->set_committed_unix_micros(NowMicros());
  SIBYL_ASSIGN_OR_RETURN(
      const PostgresRows rows,
      writer_->Query(
          absl::StrCat("WITH q AS (UPDATE sibyl.queries SET sequence = $1, waits = false, owner = NULL, attempts = "
                       "attempts + 1, ask_again_unix_micros = CASE WHEN $2::bigint = 4 AND attempts + 1 < $3::bigint "
                       "THEN $4::bigint + ($5::bigint << least(attempts, 20)::int) END, overridden = $6 "
                       "WHERE id = $7 ",
                       must_wait ? "AND waits " : "",
                       "RETURNING id, attempts) INSERT INTO sibyl.attempts SELECT $1, q.id, q.attempts, $2, $8, $9, "
                       "$10, $11, $12, $13, $4, $14, $15, $16, $17 FROM q RETURNING attempt"),
          PostgresValues()
              .Add(static_cast<int64_t>(label->sequence()))
              .Add(int64_t{label->outcome()})
              .Add(int64_t{options_.most_attempts})
              .Add(label->committed_unix_micros())
              .Add(absl::ToInt64Microseconds(options_.cool_down))
              .Add(std::string(label->overridden_by().empty() ? "f" : "t"))
              .Add(query_id)
              .Add(AnswerJson(label->answer()))
              .Add(label->judge())
              .Add(label->prompt())
              .Add(label->raw())
              .Add(static_cast<int64_t>(label->prompt_tokens()))
              .Add(static_cast<int64_t>(label->completion_tokens()))
              .Add(label->cost())
              .Add(label->reason())
              .Add(label->run())
              .Add(label->overridden_by())));
  if (rows.size() == 0) return false;
  label->set_attempt(static_cast<uint32_t>(rows.Integer(0, 0)));
  ++next_sequence_;
  return true;
}

absl::Status PostgresLabelLog::ApplyAppend(Job& job) {
  job.label.set_run(options_.run);
  SIBYL_ASSIGN_OR_RETURN(const bool appended, Insert(job.query_id, /*must_wait=*/true, &job.label));
  --held_;
  if (appended) {
    unanswered_ -= unanswered_ > 0;
  } else {
    job.error = absl::AlreadyExistsError(absl::StrCat("query ", job.query_id, " has another's label"));
  }
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplyAskAgain() {
  const uint64_t room = options_.capacity - std::min(unanswered_, options_.capacity);
  SIBYL_ASSIGN_OR_RETURN(
      const PostgresRows rows,
      writer_->Query("UPDATE sibyl.queries SET waits = true, owner = NULL, ask_again_unix_micros = NULL WHERE id IN "
                     "(SELECT id FROM sibyl.queries WHERE judge = $1 AND prompt = $2 AND ask_again_unix_micros <= "
                     "$3::bigint ORDER BY ask_again_unix_micros LIMIT $4::bigint)",
                     PostgresValues()
                         .Add(options_.judge.identity)
                         .Add(options_.judge.prompt)
                         .Add(NowMicros())
                         .Add(static_cast<int64_t>(std::min<uint64_t>(room, kStep)))));
  unanswered_ += rows.changed();
  if (rows.changed() > 0) spdlog::info("{} queries that failed are asked again after their cool-down", rows.changed());
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplyServed(const std::string& served) {
  if (served == key_served_) return absl::OkStatus();
  SIBYL_RETURN_IF_ERROR(Rekey(key_served_.empty() ? "true" : "q.waits", key_served_, served));
  SIBYL_RETURN_IF_ERROR(writer_
                            ->Query("INSERT INTO sibyl.served VALUES($1, $2) ON CONFLICT(judge) DO UPDATE SET served "
                                    "= excluded.served",
                                    PostgresValues().Add(options_.judge.identity).Add(served))
                            .status());
  key_served_ = served;
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::Rekey(const std::string& which, const std::string& was, const std::string& is) {
  int64_t after = 0;
  for (bool more = true; more;) {
    SIBYL_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        writer_->Query(absl::StrCat("SELECT ", kQueryColumns, ", q.key FROM sibyl.queries q WHERE q.judge = $1 AND ",
                                    "q.id > $2 AND ", which, " ORDER BY q.id LIMIT ", kStep),
                       PostgresValues().Add(options_.judge.identity).Add(after)));
    for (int row = 0; row < rows.size(); ++row) {
      SIBYL_ASSIGN_OR_RETURN(const WaitingQuery query, QueryAt(rows, row, 0));
      after = query.id;
      if (options_.judge.key(query.query, was) != rows.Bytes(row, kQueryColumnCount)) continue;
      // Where that server has answered the question before, the query keeps its key and is answered once more.
      SIBYL_RETURN_IF_ERROR(writer_
                                ->Query("UPDATE sibyl.queries SET key = $1::bytea WHERE id = $2 AND NOT EXISTS (SELECT "
                                        "1 FROM sibyl.queries WHERE key = $1::bytea)",
                                        PostgresValues().AddBytes(options_.judge.key(query.query, is)).Add(query.id))
                                .status());
    }
    more = rows.size() == kStep;
  }
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplyEdit(Job& job) {
  const v1::EditRequest& edit = job.edit;
  if (edit.has_import()) return ApplyImport(edit.import(), job);
  if (edit.has_retry()) {
    std::string where = absl::StrCat(
        "NOT q.waits AND NOT q.overridden AND (SELECT outcome FROM sibyl.attempts WHERE sequence = q.sequence) IN (",
        absl::StrJoin(edit.retry().outcomes(), ", "), ")");
    if (!edit.retry().query_ids().empty()) {
      absl::StrAppend(&where, " AND q.id IN (", absl::StrJoin(edit.retry().query_ids(), ", "), ")");
    }
    const uint64_t room = options_.capacity - std::min(unanswered_, options_.capacity);
    const uint64_t most = edit.retry().sample() > 0 ? std::min<uint64_t>(room, edit.retry().sample()) : room;
    SIBYL_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        writer_->Query(absl::StrCat("UPDATE sibyl.queries SET waits = true, owner = NULL, ask_again_unix_micros = NULL "
                                    "WHERE id IN (SELECT q.id FROM sibyl.queries q WHERE ",
                                    where, " ORDER BY ", edit.retry().sample() > 0 ? "random()" : "q.id", " LIMIT ",
                                    most, ")")));
    job.changed.changed = rows.changed();
    unanswered_ += rows.changed();
    return absl::OkStatus();
  }
  std::vector<v1::Label> labels;
  if (edit.has_override()) {
    SIBYL_ASSIGN_OR_RETURN(const PostgresRows rows, writer_->Query(Joined("q.id = $1 AND a.sequence = q.sequence"),
                                                                   PostgresValues().Add(edit.override().query_id())));
    if (rows.size() == 0) {
      job.error = absl::NotFoundError(
          absl::StrCat("query ", edit.override().query_id(), " is not in the store, or waits for its first answer"));
      return absl::OkStatus();
    }
    SIBYL_ASSIGN_OR_RETURN(const v1::Label last, LabelAt(rows, 0));
    absl::StatusOr<v1::Label> label = Overridden(last, edit.override());
    if (!label.ok()) {
      job.error = label.status();
      return absl::OkStatus();
    }
    label->set_query_id(last.query_id());
    labels.push_back(*std::move(label));
  } else {
    SIBYL_ASSIGN_OR_RETURN(const PostgresRows rows,
                           writer_->Query(Joined("a.sequence = q.sequence AND NOT q.waits AND NOT q.overridden AND "
                                                 "a.outcome IN (2, 3) ORDER BY a.sequence")));
    for (int row = 0; row < rows.size(); ++row) {
      SIBYL_ASSIGN_OR_RETURN(const v1::Label label, LabelAt(rows, row));
      std::optional<v1::Label> again = Reparsed(label);
      if (!again.has_value()) continue;
      again->set_query_id(label.query_id());
      labels.push_back(*std::move(again));
    }
  }
  for (v1::Label& label : labels) {
    label.set_run(options_.run);
    SIBYL_RETURN_IF_ERROR(Insert(label.query_id(), /*must_wait=*/false, &label).status());
  }
  job.changed.changed = labels.size();
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplyImport(const v1::ImportLabels& import, Job& job) {
  for (const v1::Label& imported : import.labels()) {
    SIBYL_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        writer_->Query("INSERT INTO sibyl.queries AS q(key, judge, prompt, kind, texts, goal, grammar, priority, "
                       "accepted_unix_micros, waits, attempts) VALUES($1, $2, $3, $4, $5, $6, $7, 0, $8, false, 0) "
                       "ON CONFLICT(key) DO UPDATE SET waits = q.waits RETURNING id, sequence",
                       PostgresValues()
                           .AddBytes(ImportKey(imported))
                           .Add(ImportJudge(imported))
                           .Add(imported.prompt())
                           .Add(imported.query().kind())
                           .Add(TextsJson(imported.query().texts()))
                           .Add(imported.query().goal())
                           .Add(GrammarJson(imported.query().grammar()))
                           .Add(NowMicros())));
    if (!rows.IsNull(0, 1)) continue;  // the store has a label
    v1::Label label = imported;
    SIBYL_RETURN_IF_ERROR(Insert(rows.Integer(0, 0), /*must_wait=*/false, &label).status());
    ++job.changed.changed;
  }
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::ApplySpending() {
  SpendingTotals totals;
  {
    MutexLock lock(mutex_);
    totals.swap(spending_);
  }
  for (const auto& [what, total] : totals) {
    const auto& [day, endpoint, model, goal] = what;
    SIBYL_RETURN_IF_ERROR(
        writer_
            ->Query("INSERT INTO sibyl.spending AS s VALUES($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
                    "ON CONFLICT(day, endpoint, model, goal, run) DO UPDATE SET requests = s.requests + "
                    "excluded.requests, failed_requests = s.failed_requests + excluded.failed_requests, prompt_tokens "
                    "= s.prompt_tokens + excluded.prompt_tokens, completion_tokens = s.completion_tokens + "
                    "excluded.completion_tokens, cost = s.cost + excluded.cost",
                    PostgresValues()
                        .Add(day)
                        .Add(endpoint)
                        .Add(model)
                        .Add(goal)
                        .Add(options_.run)
                        .Add(static_cast<int64_t>(total.requests))
                        .Add(static_cast<int64_t>(total.failed))
                        .Add(static_cast<int64_t>(total.prompt_tokens))
                        .Add(static_cast<int64_t>(total.completion_tokens))
                        .Add(total.cost))
            .status());
  }
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::Look() {
  const absl::Time now = host_.clock.Now();
  if (now - renewed_ >= options_.lease / 3) {
    SIBYL_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        writer_->Query("UPDATE sibyl.annotators SET alive_until = now() + $1::double precision * interval '1 second' "
                       "WHERE id = $2",
                       PostgresValues().Add(absl::ToDoubleSeconds(options_.lease)).Add(annotator_id_)));
    if (rows.changed() != 1)
      return absl::DataLossError("label store: this annotator's row is gone from sibyl.annotators");
    renewed_ = now;
  }
  if (now - counted_ >= kCountEvery) SIBYL_RETURN_IF_ERROR(Count());
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows log, writer_->Query("SELECT next_sequence - 1 FROM sibyl.log"));
  const uint64_t last = log.size() == 1 ? log.Integer(0, 0) : 0;
  const bool others = others_wrote_ || last > last_sequence_;
  others_wrote_ = false;
  last_sequence_.store(std::max<uint64_t>(last, last_sequence_), std::memory_order_release);
  std::function<void()> on_labels;
  {
    MutexLock lock(mutex_);
    if (others) on_labels = events_.on_labels;
  }
  if (on_labels) on_labels();
  return Take();
}

absl::Status PostgresLabelLog::Take() {
  std::function<void(std::vector<WaitingQuery>)> take;
  {
    MutexLock lock(mutex_);
    take = events_.take;
  }
  if (!take || held_ >= options_.hold) return absl::OkStatus();
  SIBYL_ASSIGN_OR_RETURN(
      const PostgresRows rows,
      writer_->Query(absl::StrCat("UPDATE sibyl.queries q SET owner = $1 WHERE id IN (SELECT w.id FROM sibyl.queries w "
                                  "WHERE w.waits AND w.judge = $2 AND w.prompt = $3 AND (w.owner IS NULL OR NOT EXISTS "
                                  "(SELECT 1 FROM sibyl.annotators a WHERE a.id = w.owner AND a.alive_until > now())) "
                                  "ORDER BY w.priority DESC, w.id LIMIT $4::bigint FOR UPDATE SKIP LOCKED) RETURNING ",
                                  kQueryColumns),
                     PostgresValues()
                         .Add(annotator_id_)
                         .Add(options_.judge.identity)
                         .Add(options_.judge.prompt)
                         .Add(int64_t{options_.hold} - held_)));
  std::vector<WaitingQuery> taken;
  for (int row = 0; row < rows.size(); ++row) {
    SIBYL_ASSIGN_OR_RETURN(WaitingQuery query, QueryAt(rows, row, 0));
    taken.push_back(std::move(query));
  }
  held_ += static_cast<int64_t>(taken.size());
  if (!taken.empty()) take(std::move(taken));
  return absl::OkStatus();
}

absl::Status PostgresLabelLog::Count() {
  SIBYL_ASSIGN_OR_RETURN(
      const PostgresRows rows,
      writer_->Query("SELECT count(*) FILTER (WHERE judge = $1 AND prompt = $2), count(*) FROM sibyl.queries WHERE "
                     "waits",
                     PostgresValues().Add(options_.judge.identity).Add(options_.judge.prompt)));
  waiting_ = rows.Integer(0, 0);
  set_aside_ = rows.Integer(0, 1) - rows.Integer(0, 0);
  counted_ = host_.clock.Now();
  return absl::OkStatus();
}

absl::StatusOr<v1::LabelBatch> PostgresLabelLog::Read(const v1::LabelsRequest& request, int rows) {
  const uint64_t last = last_sequence();
  SIBYL_RETURN_IF_ERROR(CheckPlace(request, log_id_, last));
  const uint64_t from = std::max<uint64_t>(request.from_sequence(), 1);
  v1::LabelBatch batch;
  batch.set_next_sequence(std::min(last + 1, from + rows));
  MutexLock lock(read_mutex_);
  if (reader_ == nullptr) return absl::CancelledError("the label store is closed");
  const auto read = reader_->Query(
      Joined(
          "a.sequence >= $1 AND a.sequence < $2 AND ($3::text = '' OR q.goal = $3) AND ($4::text = '' OR q.kind = $4) "
          "AND ($5::text = '' OR q.grammar = $5) AND ($6::text = '' OR a.judge = $6) AND ($7::text = '' OR a.prompt = "
          "$7) ORDER BY a.sequence"),
      PostgresValues()
          .Add(static_cast<int64_t>(from))
          .Add(static_cast<int64_t>(batch.next_sequence()))
          .Add(request.goal())
          .Add(request.kind())
          .Add(request.has_grammar() ? GrammarJson(request.grammar()) : "")
          .Add(request.judge())
          .Add(request.prompt()));
  absl::Status status = read.status();
  for (int row = 0; status.ok() && row < read->size(); ++row) {
    absl::StatusOr<v1::Label> label = LabelAt(*read, row);
    status = label.status();
    if (!status.ok()) break;
    if (request.with_keys()) {
      label->set_key(read->Bytes(row, kLabelColumnCount + kQueryColumnCount));
      label->set_judge_identity(read->Text(row, kLabelColumnCount + kQueryColumnCount + 1));
    }
    *batch.add_labels() = *std::move(label);
  }
  if (!status.ok()) {
    // A log that cannot be read serves no follower: the process must not look healthy.
    Fail(status);
    return status;
  }
  return batch;
}

absl::StatusOr<v1::SpendingResponse> PostgresLabelLog::Spending() {
  MutexLock lock(read_mutex_);
  if (reader_ == nullptr) return absl::CancelledError("the label store is closed");
  SIBYL_ASSIGN_OR_RETURN(const PostgresRows rows,
                         reader_->Query("SELECT day, endpoint, model, goal, run, requests, failed_requests, "
                                        "prompt_tokens, completion_tokens, cost FROM sibyl.spending "
                                        "ORDER BY day, endpoint, model, goal, run"));
  v1::SpendingResponse response;
  for (int row = 0; row < rows.size(); ++row) {
    v1::SpendingResponse::Row& spent = *response.add_rows();
    spent.set_day(rows.Integer(row, 0));
    spent.set_endpoint(rows.Text(row, 1));
    spent.set_model(rows.Text(row, 2));
    spent.set_goal(rows.Text(row, 3));
    spent.set_run(rows.Text(row, 4));
    spent.set_requests(rows.Integer(row, 5));
    spent.set_failed_requests(rows.Integer(row, 6));
    spent.set_prompt_tokens(rows.Integer(row, 7));
    spent.set_completion_tokens(rows.Integer(row, 8));
    spent.set_cost(rows.Real(row, 9));
  }
  return response;
}

}  // namespace sibyl::annotator
