#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// A query in the log that waits for an answer. Its tag is not kept.
struct WaitingQuery {
  int64_t id = 0;  // in order of acceptance
  v1::Query query;
};

// The result of Ask.
struct AskResult {
  std::vector<v1::AskOutcome> outcomes;  // in the order of the queries
  std::vector<WaitingQuery> accepted;    // durable now
  uint64_t room = 0;                     // queries that would be accepted next
};

// The durable log of labels and the queue of queries that wait for one. An attempt at a query that ended is an entry of
// the log; a query whose last attempt failed can be asked again, and its next attempt is an entry of its own.
//
// Any thread may call. What a callback reports as done is durable. Callbacks run on one thread of the log's, in the
// order of the calls, and must not block it. When a write or a read fails, the log is lost to this process: every later
// call is refused with the reason, and the owner is told once (an implementation's argument).
class LabelLog {
 public:
  virtual ~LabelLog() = default;

  // Identity of the log: random, made with it, and the same for as long as the log keeps what it was given.
  virtual const std::string& log_id() const = 0;

  // Queries of this judge that waited when the log was opened, oldest first. Call once.
  virtual std::vector<WaitingQuery> TakeWaiting() = 0;

  // Offers queries that passed CheckQuery. Unavailable: the log has failed, or too many calls wait for it.
  virtual void Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) = 0;

  // Appends how an attempt at a waiting query ended. `label` has outcome, answer, judge, prompt, raw and tokens; the
  // log adds the rest. `done` gets the entry, or why there is none.
  virtual void Append(const WaitingQuery& query, v1::Label label,
                      std::function<void(absl::StatusOr<v1::Label>)> done) = 0;

  // Makes queries of this judge wait again, as long as there is room, and hands them over: those that failed and whose
  // cool-down is over. `outcomes` not empty: instead those whose last attempt ended like this, cool-down or not.
  virtual void AskAgain(std::vector<v1::Outcome> outcomes,
                        std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) = 0;

  // Entries that are durable and pass the request's filter, from request.from_sequence() on; looks at `rows` places of
  // the log at most. next_sequence is the first place that was not looked at. NotFound: request.log_id() is another
  // log. OutOfRange: from_sequence lies beyond the end, so another log was read before.
  virtual absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows) = 0;

  // Last sequence that is durable; 0: none.
  virtual uint64_t last_sequence() const = 0;
  // Queries of this judge that wait.
  virtual uint64_t waiting() const = 0;
  // Queries that wait for another judge, sampling or prompt.
  virtual uint64_t set_aside() const = 0;

  // Writes everything that was called before and closes the log; gives why that failed, or why the log had failed
  // before. Later calls are refused. The first call closes, later ones give OK.
  virtual absl::Status Close() = 0;
};

}  // namespace sibyl::annotator
