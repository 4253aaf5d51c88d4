#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/store/label_log.h"
#include "annotator/store/log_job.h"
#include "annotator/store/spending.h"
#include "annotator/store/sqlite_connection.h"
#include "common/mutex.h"
#include "common/runtime/file_system.h"
#include "common/runtime/worker.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

struct SqliteLabelLogOptions {
  // The SQLite file; made when it is absent. "<path>.lock" beside it is locked while the log is open, and names the log
  // once it has labels.
  std::string path;
  LogJudge judge;
  // Label.run.
  std::string run;
  // Queries of this judge that wait, at most.
  uint64_t capacity = 1000;
  // A query that failed may be asked again after this; each further failure doubles it.
  absl::Duration cool_down = absl::Minutes(10);
  // Attempts that a query gets by itself, at most.
  int most_attempts = 5;
  // Where the file is made and named; SQLite reads and writes it through its own VFS.
  FileSystem* files = &FileSystem::Real();
  // SQLite's VFS; "": the usual one. For tests.
  std::string vfs;
};

// A log in a SQLite file (WAL, synchronous=EXTRA). One thread writes: it takes all calls that came while the last
// transaction was synced, applies them in order, and commits them together.
class SqliteLabelLog : public LabelLog {
 public:
  // Errors are those of OpenStore, and FailedPrecondition when another process has the store open. `host.fail` is
  // called once, from any thread, when a later write or read fails.
  static absl::StatusOr<std::unique_ptr<SqliteLabelLog>> Open(const SqliteLabelLogOptions& options, const Host& host);
  ~SqliteLabelLog() override;

  const std::string& log_id() const override { return log_id_; }
  std::vector<WaitingQuery> TakeWaiting() override;
  void Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) override;
  void Append(const WaitingQuery& query, v1::Label label, std::function<void(absl::StatusOr<v1::Label>)> done) override;
  void AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) override;
  void Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) override;
  void AddRequest(const RequestEnd& request) override;
  absl::StatusOr<v1::SpendingResponse> Spending() override;
  std::string served() const override;
  void SetServed(const std::string& served) override;
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows) override;
  uint64_t last_sequence() const override { return last_sequence_.load(std::memory_order_acquire); }
  uint64_t waiting() const override { return waiting_.load(std::memory_order_relaxed); }
  uint64_t set_aside() const override { return set_aside_.load(std::memory_order_relaxed); }
  absl::Status Close() override;

 private:
  using Job = LogJob;

  SqliteLabelLog(const SqliteLabelLogOptions& options, const Host& host);
  absl::Status Load();
  // Gives queries of version 1 the keys of this one, where they are this judge's.
  absl::Status RekeyVersion1();
  // Gives this judge's queries that pass `which` (SQL), and whose key is that of server `was`, the key of server `is`.
  absl::Status Rekey(const std::string& which, const std::string& was, const std::string& is);
  absl::Status LoadWaiting();
  // Writes the log's identity into the lock file: from now on an absent store is a loss.
  absl::Status NoteInLock();
  void Enqueue(Job job, bool bounded);
  // The writing thread: until it is told to stop and nothing is left to write.
  absl::Status Write(const std::stop_token& stop);
  // Runs the jobs in one transaction and fills in their results, which hold once it is OK.
  absl::Status Apply(std::vector<Job>& jobs);
  absl::Status ApplyAsk(Job& job);
  absl::Status ApplyAppend(Job& job);
  absl::Status ApplyAskAgain(Job& job);
  absl::Status ApplyServed(const std::string& served);
  // An edit that cannot be made is the job's error; what is returned is the store's.
  absl::Status ApplyEdit(Job& job);
  absl::Status ApplyRetry(const v1::RetryQueries& retry, Job& job);
  absl::Status ApplyOverride(const v1::OverrideLabel& override, Job& job);
  absl::Status ApplyImport(const v1::ImportLabels& import, Job& job);
  absl::Status ApplyReparse(Job& job);
  absl::Status ApplySpending();
  absl::Status MakeWait(int64_t id);
  // Whether the query waits for this judge.
  absl::StatusOr<bool> WaitsHere(int64_t id);
  // Appends an attempt to the log as the label says it, and makes it the query's last one.
  absl::Status Insert(int64_t query_id, v1::Label* label);
  // The log is lost to this process.
  void Fail(const absl::Status& reason);

  const SqliteLabelLogOptions options_;
  const Host host_;
  int lock_fd_ = -1;
  std::string noted_log_id_;  // in the lock file
  std::string log_id_;
  std::atomic<uint64_t> set_aside_ = 0;
  std::vector<WaitingQuery> found_waiting_;
  std::unique_ptr<LogGauges> gauges_;

  // The writing thread's.
  std::unique_ptr<SqliteConnection> writer_;
  uint64_t next_sequence_ = 1;
  uint64_t unanswered_ = 0;
  std::string key_served_;  // what keys are made for
  bool wrote_ = false;

  std::atomic<uint64_t> last_sequence_ = 0;
  std::atomic<uint64_t> waiting_ = 0;

  Mutex read_mutex_;
  std::unique_ptr<SqliteConnection> reader_ ABSL_GUARDED_BY(read_mutex_);

  mutable Mutex mutex_;
  CondVar work_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::string served_ ABSL_GUARDED_BY(mutex_);
  SpendingTotals spending_ ABSL_GUARDED_BY(mutex_);  // not written yet
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Heartbeat> heartbeat_;
  std::unique_ptr<Worker> worker_;  // last: uses all of the above
};

}  // namespace sibyl::annotator
