#pragma once

#include <string>

#include "absl/status/status.h"
#include "annotator/judge.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Longest caption, goal or context, in bytes.
inline constexpr size_t kMaxTextBytes = 65'536;

// InvalidArgument for a query that breaks the contract of annotator.proto; names the field and its value.
absl::Status CheckQuery(const v1::Query& query);

// All that a judge's answers depend on besides the query: name, prompt and sampling.
std::string JudgeIdentity(const Judge& judge);

// Identity of a query under a judge: SHA-256 (32 bytes) over kind, captions, goal, label set, context and the judge's
// identity. Tag and priority are not part of it.
std::string QueryKey(const v1::Query& query, const std::string& judge_identity);

// SHA-256 of some bytes, in hexadecimal; what versions of rules and prompts are named after.
std::string HexDigest(const std::string& bytes);

}  // namespace sibyl::annotator
