#include "annotator/judges/endpoint_options.h"

#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

absl::Status Invalid(absl::string_view field, absl::string_view entry, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("config: annotator.openai.", field, " has `", entry, "`: ", what));
}

// "MODEL PROMPT COMPLETION".
absl::StatusOr<std::map<std::string, Price>> PricesOf(const v1::OpenAiConfig& config) {
  std::map<std::string, Price> prices;
  for (const std::string& entry : config.prices()) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ' ', absl::SkipEmpty());
    Price price;
    if (parts.size() != 3 || !absl::SimpleAtod(parts[1], &price.prompt) ||
        !absl::SimpleAtod(parts[2], &price.completion) || !(price.prompt >= 0) || !(price.completion >= 0)) {
      return Invalid("prices", entry,
                     "must be a model, the price of a million prompt tokens and that of a million "
                     "completion tokens, e.g. `gpt-4o-mini 0.15 0.6`");
    }
    if (!prices.emplace(parts[0], price).second) return Invalid("prices", entry, "the model has a price already");
  }
  return prices;
}

absl::Status ReadOption(absl::string_view entry, absl::string_view option, EndpointOptions* endpoint) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(option, absl::MaxSplits('=', 1));
  const auto& [name, value] = parts;
  double number = 0;
  const bool is_number = absl::SimpleAtod(value, &number) && number >= 0 && number < 1e15;
  if (name == "model" && !value.empty()) {
    endpoint->model = value;
  } else if (name == "key_env" && !value.empty()) {
    endpoint->key_env = value;
  } else if (name == "weight" && is_number && number > 0) {
    endpoint->weight = number;
  } else if (name == "in_flight" && is_number && number >= 1 && number <= 1000) {
    endpoint->max_in_flight = static_cast<int>(number);
  } else if (name == "requests_per_minute" && is_number) {
    endpoint->quota.requests_per_minute = number;
  } else if (name == "tokens_per_minute" && is_number) {
    endpoint->quota.tokens_per_minute = number;
  } else if (name == "money_per_day" && is_number) {
    endpoint->quota.money_per_day = number;
  } else {
    return Invalid("endpoints", entry,
                   absl::StrCat("`", option,
                                "` must be model=NAME, key_env=NAME, weight=N (above 0), in_flight=N (1 to "
                                "1000), requests_per_minute=N, tokens_per_minute=N or money_per_day=N"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EndpointName(absl::string_view url) {
  absl::string_view name = url;
  if (const size_t scheme = name.find("://"); scheme != absl::string_view::npos) name.remove_prefix(scheme + 3);
  name = name.substr(0, name.find('/'));
  if (const size_t at = name.rfind('@'); at != absl::string_view::npos) name.remove_prefix(at + 1);
  return std::string(name);
}

absl::StatusOr<std::vector<EndpointOptions>> EndpointsOf(const v1::OpenAiConfig& config) {
  SIBYL_ASSIGN_OR_RETURN(const auto prices, PricesOf(config));
  std::vector<std::string> entries(config.endpoints().begin(), config.endpoints().end());
  if (!config.url().empty()) entries.insert(entries.begin(), config.url());
  if (entries.empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.openai.url is not set, must be the server's base address, e.g. "
        "\"http://127.0.0.1:8000/v1\"");
  }
  if (config.model().empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.openai.model is not set, must be the model's name at the server");
  }
  std::vector<EndpointOptions> endpoints;
  std::set<std::string> names;
  for (const std::string& entry : entries) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ' ', absl::SkipEmpty());
    EndpointOptions endpoint;
    endpoint.model = config.model();
    endpoint.key_env = config.api_key_env();
    endpoint.max_in_flight = static_cast<int>(config.max_in_flight());
    absl::string_view url = parts.empty() ? "" : absl::string_view(parts[0]);
    if (!absl::StartsWith(url, "http://") && !absl::StartsWith(url, "https://")) {
      return Invalid("endpoints", entry, "must begin with an address, e.g. `http://127.0.0.1:8000/v1`");
    }
    while (absl::ConsumeSuffix(&url, "/")) {
    }
    endpoint.url = std::string(url);
    endpoint.name = EndpointName(url);
    for (size_t i = 1; i < parts.size(); ++i) SIBYL_RETURN_IF_ERROR(ReadOption(entry, parts[i], &endpoint));
    if (!names.insert(endpoint.name).second) {
      return Invalid("endpoints", entry, "this server is named already; each may stand here once");
    }
    if (const auto price = prices.find(endpoint.model); price != prices.end()) endpoint.price = price->second;
    if (const bool priced = prices.contains(endpoint.model);
        !priced && (endpoint.quota.money_per_day > 0 || config.money_per_day() > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("config: annotator.openai.prices has no price of the model `",
                                                     endpoint.model, "`, which a limit of money needs; add e.g. `",
                                                     endpoint.model, " 0.15 0.6`"));
    }
    endpoints.push_back(std::move(endpoint));
  }
  return endpoints;
}

}  // namespace sibyl::annotator
