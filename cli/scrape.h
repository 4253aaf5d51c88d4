#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sibyl::cli {

// Values by series, as they stand in Prometheus' text format: "name" or "name{label=\"value\"}".
using Samples = std::map<std::string, double>;

// Lines that are no samples are skipped.
Samples ParseSamples(absl::string_view text);

// What http://ADDRESS/metrics of each address answers, asked all at once; nothing for one that does not answer within
// `limit`.
std::vector<std::optional<Samples>> Scrape(const std::vector<std::string>& addresses, absl::Duration limit);

}  // namespace sibyl::cli
