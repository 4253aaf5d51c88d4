#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// What a judge said about one query; the fields are those of sibyl.v1.Label.
struct Verdict {
  v1::Outcome outcome = v1::OUTCOME_FAILED;
  std::vector<float> distribution;
  float outside = 0;
  std::string raw;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};

// Who answers queries. Any thread.
class Judge {
 public:
  virtual ~Judge() = default;

  // Label.judge and Label.prompt. Constant.
  virtual std::string name() const = 0;
  virtual std::string prompt() const = 0;
  // Everything else that an answer depends on (sampling), as text; part of a query's identity. Constant.
  virtual std::string sampling() const = 0;

  // InvalidArgument when this judge can never answer such a query: names the field, its value and the remedy.
  virtual absl::Status Check(const v1::Query& query) const = 0;

  // Queries that it takes at a time. Constant.
  virtual int capacity() const = 0;

  // Answers a query that passed Check; at most capacity() at a time. Calls `done` once, from any thread, perhaps before
  // it returns; never for a query that is still unanswered when the judge is destroyed. Trouble that may pass (an
  // absent server) is waited for, not answered.
  virtual void Answer(const v1::Query& query, std::function<void(Verdict)> done) = 0;
};

}  // namespace sibyl::annotator
