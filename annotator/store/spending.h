#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "absl/time/time.h"
#include "annotator/judges/judge.h"

namespace sibyl::annotator {

// Requests to servers and what they took, by day (since 1970, UTC), server, model and goal. A part of a log's writes.
struct SpendingTotal {
  uint64_t requests = 0, failed = 0, prompt_tokens = 0, completion_tokens = 0;
  double cost = 0;
};
using SpendingTotals = std::map<std::tuple<int64_t, std::string, std::string, std::string>, SpendingTotal>;

inline void AddTo(SpendingTotals& totals, const RequestEnd& request, absl::Time now) {
  SpendingTotal& total = totals[{absl::ToUnixSeconds(now) / 86'400, request.endpoint, request.model, request.goal}];
  ++total.requests;
  total.failed += request.result != "answered";
  total.prompt_tokens += request.prompt_tokens;
  total.completion_tokens += request.completion_tokens;
  total.cost += request.cost;
}

}  // namespace sibyl::annotator
