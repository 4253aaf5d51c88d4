#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// How one attempt at a query ended; the fields are those of sibyl.v1.Label.
struct Verdict {
  v1::Outcome outcome = v1::OUTCOME_FAILED;
  v1::Answer answer;  // for ANSWERED
  std::string raw;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};

// Answers queries. Any thread.
class Judge {
 public:
  virtual ~Judge() = default;

  // Label.judge and Label.prompt. Constant.
  virtual std::string name() const = 0;
  virtual std::string prompt() const = 0;
  // Everything else that an answer depends on (sampling), as text; part of a query's identity. Constant.
  virtual std::string sampling() const = 0;
  // The prompt that this query is asked with; part of the query's identity. Empty: there is none.
  virtual std::string Rendered(const v1::Query& query) const = 0;

  // InvalidArgument when this judge can never answer such a query, which passed CheckQuery: names the field, its value
  // and the remedy.
  virtual absl::Status Check(const v1::Query& query) const = 0;

  // Queries that it takes at a time. Constant.
  virtual int capacity() const = 0;

  // Answers a query that passed Check; at most capacity() at a time. Calls `done` once, from any thread, perhaps before
  // Answer returns; never for a query that is still unanswered when the judge is destroyed. The judge waits for trouble
  // that may pass (an absent server) to pass.
  virtual void Answer(const v1::Query& query, std::function<void(Verdict)> done) = 0;
};

}  // namespace sibyl::annotator
