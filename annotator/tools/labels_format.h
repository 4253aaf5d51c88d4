#pragma once

#include <functional>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

// Labels as lines of JSON, as CSV, and as Motif's arrays of preferences.

namespace sibyl::annotator {

// "answered", "abstained", "unparsable", "failed".
std::string OutcomeName(v1::Outcome outcome);
absl::StatusOr<v1::Outcome> OutcomeOf(const std::string& name);

// The likeliest label of a choice; empty: there is none. Its probability goes to `probability`.
std::string LikeliestLabel(const v1::Label& label, double* probability = nullptr);

// A label as one line of JSON, with everything that an import needs.
std::string LabelJson(const v1::Label& label);

// A label as a row of CSV (RFC 4180), under the header, which ends with a line break as rows do.
extern const char kCsvHeader[];
std::string LabelCsv(const v1::Label& label);

// What a file of labels does not say itself.
struct ImportDefaults {
  std::string goal;
  std::vector<std::string> labels = {"unhelpful", "helpful"};
  std::string judge;
  std::string prompt;
};

// Reads lines of JSON or CSV as they are exported, or rows of less: `caption` (or `first` and `second`) and `label`,
// with `probability` of that label, `context`, `goal`, `judge` and `prompt` where they are known. InvalidArgument names
// the line. `on_label` gets one label after the other.
absl::Status ReadJsonLines(std::istream& in, const ImportDefaults& defaults,
                           const std::function<absl::Status(v1::Label)>& on_label);
absl::Status ReadCsv(std::istream& in, const ImportDefaults& defaults,
                     const std::function<absl::Status(v1::Label)>& on_label);

// Reads Motif's data set: `folder`/data/message.npy (uint8 [N, 2, 1, 256], the two messages of each pair) and
// `folder`/preference/`preference`.npy (int8 [N]: 0 the first is better, 1 the second, 2 a tie, 3 not known). Pairs
// whose preference is not known, or whose messages are equal or empty, are left out.
absl::Status ReadMotif(const std::string& folder, const std::string& preference, const ImportDefaults& defaults,
                       const std::function<absl::Status(v1::Label)>& on_label);

}  // namespace sibyl::annotator
