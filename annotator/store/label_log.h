#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "annotator/judges/judge.h"
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

// What an edit changed.
struct EditResult {
  uint64_t changed = 0;
  std::vector<WaitingQuery> waiting;  // of this judge; they wait again, durably
};

// The judge whose queries a log takes. A log may hold those of several.
struct LogJudge {
  // The part of a query's identity that all its queries share (JudgeIdentity); empty: no judge, nothing can be asked.
  std::string identity;
  // The identity that version 1 of the store gave it: name, prompt's name and sampling, a line each.
  std::string version_1_identity;
  // Judge::prompt.
  std::string prompt;
  // Identity of a query under this judge, where the server says of itself what `served` is; "" where the judge cannot
  // answer it.
  std::function<std::string(const v1::Query&, const std::string& served)> key;
};

// What a log that several annotators share tells one of them, on the log's thread; the functions must not block.
struct LogEvents {
  // Queries that this annotator holds now and is to answer.
  std::function<void(std::vector<WaitingQuery>)> take;
  // Other annotators have appended labels.
  std::function<void()> on_labels;
};

// NotFound: the request is about another log. OutOfRange: it begins beyond the end, so another log was read before.
absl::Status CheckPlace(const v1::LabelsRequest& request, const std::string& log_id, uint64_t last_sequence);

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

  // Appends how an attempt at a waiting query ended. `label` has outcome, answer, judge, prompt, raw, tokens, cost and
  // reason; the log adds the rest. `done` gets the entry, or why there is none: AlreadyExists where a person's label
  // has taken the query's place.
  virtual void Append(const WaitingQuery& query, v1::Label label,
                      std::function<void(absl::StatusOr<v1::Label>)> done) = 0;

  // Makes queries of this judge wait again that failed and whose cool-down is over, as long as there is room, and hands
  // them over.
  virtual void AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) = 0;

  // Makes one change (annotator.proto), of which the queries that fit into the capacity are asked again. Errors are
  // those of the RPC.
  virtual void Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) = 0;

  // Adds what a request cost to the day's spending. Durable with what is written next, after a second at the latest.
  virtual void AddRequest(const RequestEnd& request) = 0;
  // All spending that is durable.
  virtual absl::StatusOr<v1::SpendingResponse> Spending() = 0;

  // What this judge's server said of itself when it was last heard; empty: it never was. A part of the identity of
  // queries.
  virtual std::string served() const = 0;
  // The server says something else now. Queries that wait are this server's from now on; where the log did not know
  // what answered before, its labels are taken for this server's too.
  virtual void SetServed(const std::string& served) = 0;

  // From now on tells `events`. A log of one annotator has nothing to tell: it hands queries over where they are
  // accepted. A log of several hands over none there, and all of them here.
  virtual void Follow(LogEvents events) { (void)events; }

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
