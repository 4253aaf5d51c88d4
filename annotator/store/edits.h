#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

// The parts of an edit (annotator.proto) that do not depend on how a log is kept.

namespace sibyl::annotator {

// Entries of an import, at most.
inline constexpr int kMaxImport = 1000;

// InvalidArgument names the field: the edit cannot be made in any store.
absl::Status CheckEdit(const v1::EditRequest& request);

// Identity of an imported query: the label's own, else one made of question, judge and prompt.
std::string ImportKey(const v1::Label& label);
// The judge's part of it.
std::string ImportJudge(const v1::Label& label);

// InvalidArgument where the answer has not the form of the query's grammar.
absl::Status CheckAnswer(const v1::Query& query, const v1::Answer& answer);

// A person's label in the place of `last`, the query's last attempt.
absl::StatusOr<v1::Label> Overridden(const v1::Label& last, const v1::OverrideLabel& override);

// The label of the same answer as the present parser reads it; nullopt where it still says none, or was cut off.
// Probabilities are not kept with answers: the label is a hard one.
std::optional<v1::Label> Reparsed(const v1::Label& label);

}  // namespace sibyl::annotator
