#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Verdict.reason of an answer that ended at a limit of tokens begins so.
inline constexpr char kCutOff[] = "the answer was cut off";

// How one attempt at a query ended; the fields are those of sibyl.v1.Label.
struct Verdict {
  v1::Outcome outcome = v1::OUTCOME_FAILED;
  v1::Answer answer;  // for ANSWERED
  std::string raw;
  // Tokens and money of all requests that were made for this attempt.
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
  double cost = 0;
  std::string reason;  // why there is no answer; empty for ANSWERED
  // False: the judge was told to ask no more before it asked, so no attempt was made.
  bool asked = true;
};

// A request to a server has ended, whatever came of it.
struct RequestEnd {
  std::string endpoint;  // the server's host and port
  std::string model;     // as the server calls it
  std::string goal;      // the query's; empty for a probe
  std::string result;    // as sibyl_annotator_judge_requests_total has it
  // As the server counts them; 0 where it does not say.
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
  double cost = 0;  // by annotator.openai.prices
};

// What a judge tells on a thread of its own; the functions must not block.
struct JudgeReports {
  // Every request that has ended.
  std::function<void(const RequestEnd&)> on_request;
  // The server says of itself something else than before: its model and how that is quantised, the form that it is held
  // to, and whether it gives log-probabilities. Answers before and after may differ.
  std::function<void(const std::string& served)> on_served;
  // The judge is told of each verdict that was written (Judge::Written), and asks no more while many are not: they are
  // paid for and would be lost with the process.
  bool verdicts_are_written = false;
};

// Money that a day's requests to a server have cost.
struct Spent {
  std::string endpoint;
  double cost = 0;
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
  // that may pass (an absent server) to pass, and answers more urgent queries first.
  virtual void Answer(const v1::Query& query, std::function<void(Verdict)> done) = 0;

  // A verdict of Answer's has been written. Any thread.
  virtual void Written() {}

  // Asks no more. Queries that were not asked yet end with `asked` false; those in flight may still be answered.
  virtual void StopAsking() {}

  // Why nothing can be asked now, in words; empty where something can.
  virtual std::string waits_for() const { return ""; }

  // From now on tells `reports` of requests and of the server. `served`: what the server said of itself when it was
  // last heard; `today`: what was spent today before now. Call once, before the first Answer.
  virtual void Report(JudgeReports reports, const std::string& served, const std::vector<Spent>& today) {
    (void)reports;
    (void)served;
    (void)today;
  }
};

}  // namespace sibyl::annotator
