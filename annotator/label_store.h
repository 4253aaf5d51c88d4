#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/judge.h"
#include "common/runtime/clock.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// The version of the tables that this build reads and writes.
inline constexpr int kStoreVersion = 1;

// A query on disk that has no label yet. Its tag is not kept.
struct WaitingQuery {
  int64_t id = 0;  // in order of acceptance
  v1::Query query;
};

// What Ask came to.
struct AskResult {
  std::vector<v1::AskOutcome> outcomes;  // in the order of the queries
  std::vector<WaitingQuery> accepted;    // on disk now
  uint64_t room = 0;                     // queries that would be accepted next
};

struct LabelStoreOptions {
  // The SQLite file; made when it is absent. "<path>.lock" beside it is locked while the store is open.
  std::string path;
  // The judge's identity (JudgeIdentity): whose queries these are. A store may hold those of several.
  std::string judge_identity;
  // Queries of this judge that are accepted and not answered, at most.
  uint64_t capacity = 1000;
  // SQLite's VFS; "": the usual one. For tests.
  std::string vfs;
};

// Queries and labels on disk, in a SQLite file (WAL, synchronous=EXTRA). What a callback reports as done has been
// synced. One thread writes: it takes all calls that came while the last transaction was synced, applies them in order,
// and commits them together. Any thread may call; callbacks run on the writing thread and must not block.
//
// When a transaction fails the store is lost to this process: every call from then on is refused with the reason, and
// `on_failure` is called once with it.
class LabelStore {
 public:
  // FailedPrecondition: another process has the store open, or its version is unknown, or it is no label store; each
  // names the file. Unavailable: the file cannot be read or written.
  static absl::StatusOr<std::unique_ptr<LabelStore>> Open(const LabelStoreOptions& options, Clock& clock,
                                                          Metrics& metrics,
                                                          std::function<void(absl::Status)> on_failure);
  // Everything that was called before is written first.
  ~LabelStore();

  // Queries of this judge that waited when the store was opened, oldest first. Call once.
  std::vector<WaitingQuery> TakeWaiting();

  // Offers queries that passed CheckQuery. Unavailable: the store has failed, or too many calls wait for it.
  void Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done);

  // Appends the label of a waiting query; `done` gets it as it stands in the log, or why it does not.
  void Append(const WaitingQuery& query, const std::string& judge, const std::string& prompt, Verdict verdict,
              std::function<void(absl::StatusOr<v1::Label>)> done);

  // Labels that are on disk and pass the request's filter, from request.from_sequence() on; looks at `rows` places of
  // the log at most. next_sequence is the first place that was not looked at. OutOfRange when from_sequence lies beyond
  // the end of the log: it was read from another store.
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows);

  // Last sequence that is on disk; 0: none.
  uint64_t last_sequence() const { return last_sequence_.load(std::memory_order_acquire); }
  // Queries of this judge that are on disk and have no label.
  uint64_t waiting() const { return waiting_.load(std::memory_order_relaxed); }
  // Queries of other judges that are on disk and have no label: they wait for their judge.
  uint64_t set_aside() const { return set_aside_; }

 private:
  class Connection;
  struct Job;
  struct Gauges;

  LabelStore(const LabelStoreOptions& options, Clock& clock, std::function<void(absl::Status)> on_failure);
  absl::Status Load();
  void Enqueue(Job job, bool bounded);
  void Write();
  // Runs the jobs in one transaction and fills in their results, which hold once it is OK.
  absl::Status Apply(std::vector<Job>& jobs);
  absl::Status ApplyAsk(Job& job);
  absl::Status ApplyAppend(Job& job);

  const LabelStoreOptions options_;
  Clock& clock_;
  const std::function<void(absl::Status)> on_failure_;
  int lock_fd_ = -1;
  uint64_t set_aside_ = 0;
  std::vector<WaitingQuery> found_waiting_;
  std::unique_ptr<Gauges> gauges_;

  // The writing thread's.
  std::unique_ptr<Connection> writer_;
  uint64_t next_sequence_ = 1;
  uint64_t unanswered_ = 0;
  bool wrote_ = false;

  std::atomic<uint64_t> last_sequence_ = 0;
  std::atomic<uint64_t> waiting_ = 0;

  Mutex read_mutex_;
  std::unique_ptr<Connection> reader_ ABSL_PT_GUARDED_BY(read_mutex_);

  Mutex mutex_;
  CondVar work_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace sibyl::annotator
