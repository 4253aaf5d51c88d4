#pragma once

#include <functional>
#include <memory>
#include <queue>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/judges/judge.h"
#include "annotator/quality/quality.h"
#include "annotator/store/label_log.h"
#include "common/mutex.h"
#include "common/runtime/worker.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Queries that one Ask may hold.
inline constexpr int kMaxQueriesAnAsk = 1000;

// Takes queries, has the judge answer them in order of priority, and appends the answers to the log. Asks failed
// queries again when their cool-down is over. Any thread.
class Annotator {
 public:
  // Begins with the queries that wait in the log. `on_label` is called, on the log's thread, after a label was
  // committed; it must not block. `gold`: captions whose label is known, for Quality. `look_for_failed`: how often
  // failed queries are looked for.
  Annotator(std::unique_ptr<Judge> judge, std::unique_ptr<LabelLog> log, uint64_t capacity, const Host& host,
            std::function<void()> on_label, const std::vector<GoldItem>& gold = {},
            absl::Duration look_for_failed = absl::Seconds(30));
  // Answers that are still in flight are dropped; their queries are asked again after a restart.
  ~Annotator();

  // Offers queries; `done` is called once, when what is accepted is durable, perhaps before Ask returns.
  // InvalidArgument names the query and the field, and none of the queries is taken. Unavailable: draining, or the
  // log has failed.
  void Ask(const v1::AskRequest& request, std::function<void(absl::StatusOr<v1::AskResponse>)> done);

  // LabelLog::Edit; queries that wait again are asked. `done` is called once, perhaps before Edit returns.
  void Edit(v1::EditRequest request, std::function<void(absl::StatusOr<v1::EditResponse>)> done);

  // LabelLog::Spending.
  absl::StatusOr<v1::SpendingResponse> Spending() { return log_->Spending(); }

  // LabelLog::Read.
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows);

  v1::DescribeResponse Describe() const;

  // Refuses queries from now on, hands no more to the judge, and waits until the judge's are answered and committed,
  // `limit` at most. Gives how many were not.
  int Drain(absl::Duration limit);

  // LabelLog::Close. Whatever comes later is refused.
  absl::Status Close();

 private:
  struct Gauges;
  struct LessUrgent {
    bool operator()(const WaitingQuery& a, const WaitingQuery& b) const {
      if (a.query.priority() != b.query.priority()) return a.query.priority() < b.query.priority();
      return a.id > b.id;
    }
  };

  absl::Status Dispatch(const std::stop_token& stop);
  void Add(std::vector<WaitingQuery> queries);
  // Asks failed queries again whose cool-down is over.
  void AskAgain();
  void OnVerdict(const WaitingQuery& query, Verdict verdict);
  void OnRequest(const RequestEnd& request);
  void EndOne();

  const uint64_t capacity_;
  const std::function<void()> on_label_;
  const absl::Duration look_for_failed_;
  Clock& clock_;
  std::unique_ptr<Gauges> gauges_;
  Quality quality_;
  // The log asks the judge for identities, and the judge's verdicts go to the log: ~Annotator closes the log, ends the
  // judge, and then the log.
  std::unique_ptr<LabelLog> log_;
  std::unique_ptr<Judge> judge_;

  Mutex mutex_;
  CondVar changed_;
  std::priority_queue<WaitingQuery, std::vector<WaitingQuery>, LessUrgent> waiting_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // handed to the judge and not committed
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  const std::unique_ptr<Heartbeat> heartbeat_;
  std::unique_ptr<Worker> dispatcher_;
};

}  // namespace sibyl::annotator
