#pragma once

#include <functional>
#include <memory>
#include <queue>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/judge.h"
#include "annotator/label_store.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Queries that one Ask may hold.
inline constexpr int kMaxQueriesAnAsk = 1000;

// Takes queries, has the judge answer them in order of priority, and puts the labels into the store. Any thread.
class Annotator {
 public:
  // Begins with the queries that wait in the store. `on_label` is called, from any thread, after labels were committed;
  // it must not block.
  Annotator(std::unique_ptr<Judge> judge, std::unique_ptr<LabelStore> store, uint64_t capacity, Metrics& metrics,
            std::function<void()> on_label);
  // Answers that are still in flight are dropped; their queries are asked again after a restart.
  ~Annotator();

  // Offers queries; `done` is called once, when what is accepted is on disk, perhaps before Ask returns.
  // InvalidArgument names the query and the field, and none of the queries is taken. Unavailable: draining, or the
  // store has failed.
  void Ask(const v1::AskRequest& request, std::function<void(absl::StatusOr<v1::AskResponse>)> done);

  // LabelStore::Read.
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows);

  v1::DescribeResponse Describe() const;

  // Refuses queries from now on, hands no more to the judge, and waits until those that it has are answered and
  // committed, `limit` at most. Gives how many were not.
  int Drain(absl::Duration limit);

 private:
  struct Gauges;
  struct LessUrgent {
    bool operator()(const WaitingQuery& a, const WaitingQuery& b) const {
      if (a.query.priority() != b.query.priority()) return a.query.priority() < b.query.priority();
      return a.id > b.id;
    }
  };

  void Dispatch();
  void OnVerdict(const WaitingQuery& query, Verdict verdict);

  const uint64_t capacity_;
  const std::function<void()> on_label_;
  std::unique_ptr<Gauges> gauges_;
  std::unique_ptr<Judge> judge_;
  std::unique_ptr<LabelStore> store_;

  Mutex mutex_;
  CondVar changed_;
  std::priority_queue<WaitingQuery, std::vector<WaitingQuery>, LessUrgent> waiting_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // handed to the judge and not committed
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread dispatcher_;
};

}  // namespace sibyl::annotator
