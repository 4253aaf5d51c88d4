#include "annotator/chat_api.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "annotator/answer_parser.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

// Not likely as an answer to the probe's question unless the constraint binds.
const std::vector<std::string> kProbeLabels = {"maple", "birch"};

Json Base(const v1::OpenAiConfig& config, const Dialect& dialect, uint32_t max_tokens) {
  Json request;
  request["model"] = config.model();
  request["temperature"] = config.temperature();
  request["seed"] = config.seed();
  request[dialect.new_max_tokens ? "max_completion_tokens" : "max_tokens"] = max_tokens;
  if (dialect.logprobs) {
    request["logprobs"] = true;
    request["top_logprobs"] = 10;
  }
  return request;
}

void Constrain(const Dialect& dialect, bool explain, std::vector<std::string> labels, Json* request) {
  if (dialect.constraint == Constraint::kChoice) {
    (*request)["structured_outputs"] = {{"choice", labels}};
  } else if (dialect.constraint == Constraint::kJsonSchema) {
    Json properties;
    Json required = Json::array();
    if (explain) {
      for (const char* name : {"knowledge", "analysis"}) {
        properties[name] = {{"type", "string"}};
        required.push_back(name);
      }
    }
    properties["label"] = {{"type", "string"}, {"enum", labels}};
    required.push_back("label");
    const Json schema = {
        {"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false}};
    (*request)["response_format"] = {{"type", "json_schema"},
                                     {"json_schema", {{"name", "verdict"}, {"strict", true}, {"schema", schema}}}};
  }
}

// Where one string begins with the other.
bool Agree(absl::string_view a, absl::string_view b) {
  return absl::StartsWithIgnoreCase(a, b) || absl::StartsWithIgnoreCase(b, a);
}

uint64_t Count(const Json& json, const char* name) {
  const auto it = json.find(name);
  return it != json.end() && it->is_number_integer() && it->get<int64_t>() > 0 ? it->get<uint64_t>() : 0;
}
std::string String(const Json& json, const char* name) {
  const auto it = json.find(name);
  return it != json.end() && it->is_string() ? it->get<std::string>() : "";
}
double LogProbability(const Json& json) {
  const auto it = json.find("logprob");
  return it != json.end() && it->is_number() ? it->get<double>() : -INFINITY;
}

// Probability of each label, and of what is none, at the place where the answer chose its label. Follows the answer's
// tokens until they tell the labels apart. Empty when the tokens do not show it.
std::vector<double> LabelMasses(const Completion& completion, const std::vector<std::string>& label_set, int chosen,
                                size_t offset) {
  size_t at = 0;  // of the token in the content
  size_t i = 0;
  while (i < completion.tokens.size() && at + completion.tokens[i].text.size() <= offset) {
    at += completion.tokens[i++].text.size();
  }
  if (i == completion.tokens.size() || at > offset) return {};
  // What stands before the label in its first token (a blank, a quote), which an alternative must share or do without.
  const std::string lead = completion.tokens[i].text.substr(0, offset - at);
  std::vector<double> masses(label_set.size(), 0);
  double reached = 1;  // probability of the tokens of the label so far
  std::string prefix;
  for (bool first = true; i < completion.tokens.size(); ++i, first = false) {
    const Completion::Token& token = completion.tokens[i];
    const auto continued = [&](absl::string_view text) {
      if (first) {
        absl::ConsumePrefix(&text, lead);
        text = absl::StripLeadingAsciiWhitespace(text);
      }
      return prefix + std::string(text);
    };
    // The labels that a text may be becoming.
    const auto candidates = [&](const std::string& text) {
      std::vector<int> result;
      if (text.empty()) return result;
      for (size_t k = 0; k < label_set.size(); ++k) {
        if (Agree(label_set[k], text)) result.push_back(static_cast<int>(k));
      }
      return result;
    };
    const std::string own = continued(token.text);
    const std::vector<int> own_candidates = candidates(own);
    bool own_listed = false;
    for (const auto& [text, logprob] : token.top) {
      if (text == token.text) own_listed = true;
      const std::vector<int> fits = candidates(continued(text));
      if (fits.size() == 1) masses[fits[0]] += reached * std::exp(logprob);
    }
    if (!own_listed && own_candidates.size() == 1) masses[own_candidates[0]] += reached * std::exp(token.logprob);
    if (own_candidates.size() <= 1) {
      return masses[chosen] > 0 ? masses : std::vector<double>{};
    }
    // Several labels begin like this: the next token tells.
    reached *= std::exp(token.logprob);
    prefix = own;
  }
  return {};
}

}  // namespace

const char* ConstraintName(Constraint constraint) {
  switch (constraint) {
    case Constraint::kJsonSchema:
      return "response_format json_schema";
    case Constraint::kChoice:
      return "structured_outputs choice";
    case Constraint::kNone:
      break;
  }
  return "none";
}

bool Dialect::Next() {
  if (logprobs) {
    logprobs = false;
    return true;
  }
  if (constraint == Constraint::kNone) return false;
  constraint = constraint == Constraint::kJsonSchema ? Constraint::kChoice : Constraint::kNone;
  logprobs = true;
  return true;
}

std::string ChatRequest(const v1::OpenAiConfig& config, const Dialect& dialect,
                        const std::vector<ChatMessage>& messages, const std::vector<std::string>& label_set) {
  Json request = Base(config, dialect, config.max_tokens());
  request["messages"] = Json::array();
  for (const ChatMessage& message : messages) {
    request["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  std::vector<std::string> labels = label_set;
  labels.push_back("abstain");
  Constrain(dialect, true, std::move(labels), &request);
  return request.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect) {
  Json request = Base(config, dialect, 24);
  request["messages"] =
      Json::array({{{"role", "user"}, {"content", "How much is two and two? Answer with the number."}}});
  Constrain(dialect, false, kProbeLabels, &request);
  return request.dump();
}

bool ProbeBinds(const Dialect& dialect, const std::string& content) {
  const std::string stripped(absl::StripAsciiWhitespace(content));
  const auto is_label = [](const std::string& text) {
    return std::find(kProbeLabels.begin(), kProbeLabels.end(), text) != kProbeLabels.end();
  };
  switch (dialect.constraint) {
    case Constraint::kJsonSchema: {
      const Json json = Json::parse(stripped, nullptr, false);
      return json.is_object() && is_label(String(json, "label"));
    }
    case Constraint::kChoice:
      return is_label(stripped);
    case Constraint::kNone:
      break;
  }
  return true;
}

Completion ReadCompletion(const std::string& body) {
  Completion completion;
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("choices") || !json["choices"].is_array() || json["choices"].empty()) {
    return completion;
  }
  const Json& choice = json["choices"][0];
  if (!choice.is_object() || !choice.contains("message") || !choice["message"].is_object()) return completion;
  completion.valid = true;
  completion.content = String(choice["message"], "content");
  completion.finish_reason = String(choice, "finish_reason");
  completion.refused = completion.finish_reason == "content_filter" || !String(choice["message"], "refusal").empty();
  completion.aborted = !completion.refused && completion.finish_reason != "length" &&
                       (completion.finish_reason == "abort" || absl::StripAsciiWhitespace(completion.content).empty());
  if (json.contains("usage") && json["usage"].is_object()) {
    completion.prompt_tokens = Count(json["usage"], "prompt_tokens");
    completion.completion_tokens = Count(json["usage"], "completion_tokens");
  }
  if (!choice.contains("logprobs") || !choice["logprobs"].is_object()) return completion;
  const Json& logprobs = choice["logprobs"];
  if (!logprobs.contains("content") || !logprobs["content"].is_array()) return completion;
  std::string text;
  for (const Json& entry : logprobs["content"]) {
    if (!entry.is_object()) return completion;
    Completion::Token token{String(entry, "token"), LogProbability(entry), {}};
    if (entry.contains("top_logprobs") && entry["top_logprobs"].is_array()) {
      for (const Json& top : entry["top_logprobs"]) {
        if (top.is_object()) token.top.emplace_back(String(top, "token"), LogProbability(top));
      }
    }
    text += token.text;
    completion.tokens.push_back(std::move(token));
  }
  // Only tokens that spell the content can be matched with it; some servers strip a blank at its begin or add an end.
  const size_t at = text.find(completion.content);
  completion.has_logprobs =
      !completion.content.empty() && at != std::string::npos && text.find_first_not_of(" \t\r\n") >= at;
  if (completion.has_logprobs && at > 0) {
    size_t cut = at;
    while (cut > 0) {
      std::string& first = completion.tokens.front().text;
      if (first.size() > cut) {
        first.erase(0, cut);
        break;
      }
      cut -= first.size();
      completion.tokens.erase(completion.tokens.begin());
    }
  }
  return completion;
}

Verdict ReadVerdict(const Completion& completion, const std::vector<std::string>& label_set) {
  Verdict verdict;
  verdict.raw = completion.content;
  verdict.prompt_tokens = completion.prompt_tokens;
  verdict.completion_tokens = completion.completion_tokens;
  if (completion.refused) {
    verdict.outcome = v1::OUTCOME_FAILED;
    return verdict;
  }
  const ParsedAnswer answer = ParseAnswer(completion.content, label_set);
  if (answer.kind != ParsedAnswer::kLabel) {
    verdict.outcome = answer.kind == ParsedAnswer::kAbstained ? v1::OUTCOME_ABSTAINED : v1::OUTCOME_UNPARSABLE;
    return verdict;
  }
  verdict.outcome = v1::OUTCOME_ANSWERED;
  verdict.distribution.assign(label_set.size(), 0);
  std::vector<double> masses;
  if (completion.has_logprobs) masses = LabelMasses(completion, label_set, answer.label, answer.offset);
  if (masses.empty()) {
    verdict.distribution[answer.label] = 1;
    return verdict;
  }
  double sum = 0;
  for (double mass : masses) sum += mass;
  for (size_t i = 0; i < masses.size(); ++i) verdict.distribution[i] = static_cast<float>(masses[i] / sum);
  verdict.outside = static_cast<float>(std::clamp(1 - sum, 0.0, 1.0));
  return verdict;
}

}  // namespace sibyl::annotator
