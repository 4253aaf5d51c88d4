#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "annotator/judges/quota.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// Money for a million tokens, in the currency of the price table.
struct Price {
  double prompt = 0;
  double completion = 0;

  double Of(uint64_t prompt_tokens, uint64_t completion_tokens) const {
    return (prompt * static_cast<double>(prompt_tokens) + completion * static_cast<double>(completion_tokens)) / 1e6;
  }
};

// A server, as annotator.openai.url or an entry of annotator.openai.endpoints names it.
struct EndpointOptions {
  std::string url;      // without slashes at its end
  std::string name;     // the address without scheme, path and password: for logs, metrics and the store
  std::string model;    // as this server calls it
  std::string key_env;  // names the environment variable with its key
  double weight = 1;    // its share of the queries is proportional
  int max_in_flight = 8;
  QuotaOptions quota;
  Price price;
};

// The servers that the configuration names; at least one. InvalidArgument names the field, the entry and the remedy.
absl::StatusOr<std::vector<EndpointOptions>> EndpointsOf(const v1::OpenAiConfig& config);

// Host and port of an address.
std::string EndpointName(absl::string_view url);

}  // namespace sibyl::annotator
