#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/store/label_log.h"
#include "annotator/store/log_job.h"
#include "annotator/store/postgres_connection.h"
#include "annotator/store/spending.h"
#include "common/mutex.h"
#include "common/runtime/worker.h"

namespace sibyl::annotator {

struct PostgresLabelLogOptions {
  // postgresql://user@host/database. The tables lie in the schema `sibyl`, which is made when it is absent.
  std::string url;
  LogJudge judge;
  std::string run;  // Label.run
  // Queries of this judge that wait, at most.
  uint64_t capacity = 1000;
  // As in SqliteLabelLogOptions.
  absl::Duration cool_down = absl::Minutes(10);
  int most_attempts = 5;
  // Queries that this annotator holds at a time, at most; the others are there for other annotators.
  int hold = 64;
  // An annotator that has not been heard of for this long has lost what it held.
  absl::Duration lease = absl::Seconds(15);
  // How often it looks for what other annotators have done.
  absl::Duration poll = absl::Milliseconds(100);
};

// A log in a PostgreSQL database that several annotators share. Queries wait in the database; each annotator takes some
// (FOR UPDATE SKIP LOCKED), and holds them for as long as it renews its lease. An answer that another annotator has
// given meanwhile wins: the later one is not logged.
//
// All that changes the log locks its one row in the table `log` first. So transactions commit in the order of their
// sequence numbers, numbers have no gaps, and a reader that has seen a number has seen all before it.
class PostgresLabelLog : public LabelLog {
 public:
  // Unavailable: there is no connection. FailedPrecondition: the tables are another version's.
  static absl::StatusOr<std::unique_ptr<PostgresLabelLog>> Open(const PostgresLabelLogOptions& options,
                                                                const Host& host);
  ~PostgresLabelLog() override;

  const std::string& log_id() const override { return log_id_; }
  std::vector<WaitingQuery> TakeWaiting() override { return {}; }  // they come through Follow
  void Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) override;
  void Append(const WaitingQuery& query, v1::Label label, std::function<void(absl::StatusOr<v1::Label>)> done) override;
  void AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) override;
  void Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) override;
  void AddRequest(const RequestEnd& request) override;
  absl::StatusOr<v1::SpendingResponse> Spending() override;
  std::string served() const override;
  void SetServed(const std::string& served) override;
  void Follow(LogEvents events) override;
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows) override;
  uint64_t last_sequence() const override { return last_sequence_.load(std::memory_order_acquire); }
  uint64_t waiting() const override { return waiting_.load(std::memory_order_relaxed); }
  uint64_t set_aside() const override { return set_aside_.load(std::memory_order_relaxed); }
  absl::Status Close() override;

 private:
  using Job = LogJob;

  PostgresLabelLog(const PostgresLabelLogOptions& options, const Host& host);
  absl::Status Load();
  void Enqueue(Job job, bool bounded);
  absl::Status Write(const std::stop_token& stop);
  // One transaction: the jobs and the spending.
  absl::Status Apply(std::vector<Job>& jobs);
  absl::Status ApplyAsk(Job& job);
  absl::Status ApplyAppend(Job& job);
  absl::Status ApplyAskAgain();
  absl::Status ApplyServed(const std::string& served);
  absl::Status Rekey(const std::string& which, const std::string& was, const std::string& is);
  absl::Status ApplyEdit(Job& job);
  absl::Status ApplyImport(const v1::ImportLabels& import, Job& job);
  absl::Status ApplySpending();
  // Appends an attempt, and makes it the query's last one. False: the query waits no more (where it must), or is not
  // there.
  absl::StatusOr<bool> Insert(int64_t query_id, bool must_wait, v1::Label* label);
  // Renews the lease, takes queries, looks at what others have done.
  absl::Status Look();
  absl::Status Take();
  absl::Status Count();
  void Fail(const absl::Status& reason);
  int64_t NowMicros() const { return absl::ToUnixMicros(host_.clock.Now()); }

  const PostgresLabelLogOptions options_;
  const Host host_;
  std::string log_id_;
  int64_t annotator_id_ = 0;
  std::unique_ptr<LogGauges> gauges_;

  // The writing thread's.
  std::unique_ptr<PostgresConnection> writer_;
  uint64_t next_sequence_ = 1;
  std::string key_served_;
  uint64_t unanswered_ = 0;    // of this judge, when the transaction began
  bool others_wrote_ = false;  // since its followers were last told
  absl::Time renewed_ = absl::InfinitePast(), counted_ = absl::InfinitePast();

  std::atomic<uint64_t> last_sequence_ = 0, waiting_ = 0, set_aside_ = 0;
  std::atomic<int64_t> held_ = 0;

  Mutex read_mutex_;
  std::unique_ptr<PostgresConnection> reader_ ABSL_GUARDED_BY(read_mutex_);

  mutable Mutex mutex_;
  CondVar work_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::string served_ ABSL_GUARDED_BY(mutex_);
  SpendingTotals spending_ ABSL_GUARDED_BY(mutex_);
  LogEvents events_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Heartbeat> heartbeat_;
  std::unique_ptr<Worker> worker_;  // last: uses all of the above
};

}  // namespace sibyl::annotator
