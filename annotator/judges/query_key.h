#pragma once

#include <string>

#include "annotator/judges/judge.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Identity of a query under a judge: SHA-256 (32 bytes) over kind, texts, goal, grammar, the judge's name, the rendered
// prompt, the sampling, and what the judge's server says of itself (empty: it has not said it yet). Tag, priority and
// whatever reads the answer are not part of it.
std::string QueryKey(const v1::Query& query, const Judge& judge, const std::string& served = "");

// The judge and its sampling: the part of an identity that all of a judge's queries share.
std::string JudgeIdentity(const Judge& judge);

// SHA-256 of some bytes.
std::string Sha256(const std::string& bytes);
// The same in hexadecimal; names versions of rules and prompts.
std::string HexDigest(const std::string& bytes);

}  // namespace sibyl::annotator
