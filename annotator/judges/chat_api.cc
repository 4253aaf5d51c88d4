#include "annotator/judges/chat_api.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "annotator/judges/thinking.h"

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

// Asks for the form, where the server can be held to one.
void Constrain(const Dialect& dialect, const AnswerForm& form, Json* request) {
  if (form.json_schema.empty() && form.choices.empty()) return;
  if (dialect.constraint == Constraint::kStructuredOutputs) {
    (*request)["structured_outputs"] =
        form.choices.empty() ? Json{{"json", Json::parse(form.json_schema)}} : Json{{"choice", form.choices}};
  } else if (dialect.constraint == Constraint::kJsonSchema && !form.json_schema.empty()) {
    (*request)["response_format"] = {
        {"type", "json_schema"},
        {"json_schema", {{"name", "verdict"}, {"strict", true}, {"schema", Json::parse(form.json_schema)}}}};
  }
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

// The tokens that spell `text`, which stands at the end of what the tokens spell; empty where they do not spell it.
// Some servers strip a blank or a Markdown fence around the text and leave it in the tokens. `thought`: other text may
// stand before it.
std::vector<Token> TokensOf(const Json& choice, const std::string& text, bool thought) {
  const auto logprobs = choice.find("logprobs");
  if (text.empty() || logprobs == choice.end() || !logprobs->is_object()) return {};
  const auto content = logprobs->find("content");
  if (content == logprobs->end() || !content->is_array()) return {};
  std::vector<Token> tokens;
  std::string spelt;
  for (const Json& entry : *content) {
    if (!entry.is_object()) return {};
    Token token{String(entry, "token"), LogProbability(entry), {}};
    if (entry.contains("top_logprobs") && entry["top_logprobs"].is_array()) {
      for (const Json& top : entry["top_logprobs"]) {
        if (top.is_object()) token.top.emplace_back(String(top, "token"), LogProbability(top));
      }
    }
    spelt += token.text;
    tokens.push_back(std::move(token));
  }
  const size_t at = spelt.rfind(text);
  if (at == std::string::npos) return {};
  const absl::string_view before = absl::StripAsciiWhitespace(absl::string_view(spelt).substr(0, at));
  if (!thought && !before.empty() && before != "```" && before != "```json") return {};
  size_t cut = at;
  while (cut > 0) {
    std::string& first = tokens.front().text;
    if (first.size() > cut) {
      first.erase(0, cut);
      break;
    }
    cut -= first.size();
    tokens.erase(tokens.begin());
  }
  return tokens;
}

}  // namespace

const char* ConstraintName(Constraint constraint) {
  switch (constraint) {
    case Constraint::kJsonSchema:
      return "response_format json_schema";
    case Constraint::kStructuredOutputs:
      return "structured_outputs";
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
  constraint = constraint == Constraint::kJsonSchema ? Constraint::kStructuredOutputs : Constraint::kNone;
  logprobs = true;
  return true;
}

std::string ChatRequest(const v1::OpenAiConfig& config, const Dialect& dialect,
                        const std::vector<ChatMessage>& messages, const AnswerForm& form) {
  Json request = Base(config, dialect, config.max_tokens());
  request["messages"] = Json::array();
  for (const ChatMessage& message : messages) {
    request["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  Constrain(dialect, form, &request);
  return request.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect) {
  Json request = Base(config, dialect, 24);
  request["messages"] =
      Json::array({{{"role", "user"}, {"content", "How much is two and two? Answer with the number."}}});
  const Json schema = {{"type", "object"},
                       {"properties", {{"label", {{"type", "string"}, {"enum", kProbeLabels}}}}},
                       {"required", {"label"}},
                       {"additionalProperties", false}};
  Constrain(dialect, {schema.dump(), kProbeLabels}, &request);
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
    case Constraint::kStructuredOutputs:
      return is_label(stripped);
    case Constraint::kNone:
      break;
  }
  return true;
}

Completion ReadCompletion(const std::string& body, uint32_t max_tokens) {
  Completion completion;
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("choices") || !json["choices"].is_array() || json["choices"].empty()) {
    return completion;
  }
  const Json& choice = json["choices"][0];
  if (!choice.is_object() || !choice.contains("message") || !choice["message"].is_object()) return completion;
  const Json& message = choice["message"];
  completion.valid = true;
  completion.content = String(message, "content");
  if (json.contains("usage") && json["usage"].is_object()) {
    completion.prompt_tokens = Count(json["usage"], "prompt_tokens");
    completion.completion_tokens = Count(json["usage"], "completion_tokens");
  }
  const std::string end = String(choice, "finish_reason");
  const std::string refusal = String(message, "refusal");
  completion.refused = end == "content_filter" || !refusal.empty();
  if (completion.content.empty()) completion.content = refusal;
  Reply& reply = completion.reply;
  reply.cut = end == "length" || end == "max_tokens" ||
              (end.empty() && max_tokens > 0 && completion.completion_tokens >= max_tokens);
  completion.aborted =
      !completion.refused && !reply.cut && (end == "abort" || absl::StripAsciiWhitespace(completion.content).empty());
  const std::optional<absl::string_view> answer = WithoutThinking(completion.content);
  if (!answer.has_value()) {
    reply.cut = true;
    return completion;
  }
  reply.text = std::string(*answer);
  // Thinking that the server kept apart is no part of the answer, but its tokens are listed with the answer's.
  const bool thought_apart = !String(message, "reasoning_content").empty() || !String(message, "reasoning").empty();
  reply.tokens = TokensOf(choice, reply.text, thought_apart || answer->size() < completion.content.size());
  return completion;
}

}  // namespace sibyl::annotator
