#include "annotator/judges/chat_api.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "annotator/judges/thinking.h"
#include "annotator/questions/choice.h"
#include "annotator/questions/json_text.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

// Not likely as an answer to the probe's question unless the constraint binds.
const std::vector<std::string> kProbeLabels = {"maple", "birch"};

constexpr char kProbeQuestion[] = "How much is two and two? Answer with the number.";

// Fields that no server does without.
bool IsEssential(absl::string_view name) { return name == "model" || name == "messages" || name == "prompt"; }

Json Base(const v1::OpenAiConfig& config, const Dialect& dialect, const Ask& ask) {
  Json request;
  request["model"] = config.model();
  request["temperature"] = config.temperature();
  request["seed"] = config.seed() + ask.vote;
  request[dialect.new_max_tokens ? "max_completion_tokens" : "max_tokens"] = ask.max_tokens;
  if (ask.one_line) request["stop"] = Json::array({"\n"});
  if (dialect.logprobs) {
    if (ask.shown.messages.empty()) {
      request["logprobs"] = dialect.top_logprobs;
    } else {
      request["logprobs"] = true;
      request["top_logprobs"] = dialect.top_logprobs;
    }
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

// The tokens of a completion. Chats list them under "content", and so do some servers for texts; others list texts'
// tokens in columns.
std::vector<Token> ListedTokens(const Json& choice) {
  const auto logprobs = choice.find("logprobs");
  if (logprobs == choice.end() || !logprobs->is_object()) return {};
  std::vector<Token> tokens;
  if (const auto content = logprobs->find("content"); content != logprobs->end() && content->is_array()) {
    for (const Json& entry : *content) {
      if (!entry.is_object()) return {};
      Token token{String(entry, "token"), LogProbability(entry), {}};
      if (entry.contains("top_logprobs") && entry["top_logprobs"].is_array()) {
        for (const Json& top : entry["top_logprobs"]) {
          if (top.is_object()) token.top.emplace_back(String(top, "token"), LogProbability(top));
        }
      }
      tokens.push_back(std::move(token));
    }
    return tokens;
  }
  const auto texts = logprobs->find("tokens"), values = logprobs->find("token_logprobs"),
             tops = logprobs->find("top_logprobs");
  if (texts == logprobs->end() || !texts->is_array() || values == logprobs->end() || !values->is_array()) return {};
  for (size_t i = 0; i < texts->size() && i < values->size(); ++i) {
    if (!(*texts)[i].is_string()) return {};
    Token token{(*texts)[i].get<std::string>(), (*values)[i].is_number() ? (*values)[i].get<double>() : -INFINITY, {}};
    if (tops != logprobs->end() && tops->is_array() && i < tops->size() && (*tops)[i].is_object()) {
      for (const auto& [text, value] : (*tops)[i].items()) {
        if (value.is_number()) token.top.emplace_back(text, value.get<double>());
      }
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// The tokens that spell `text`, which stands at the end of what the tokens spell; empty where they do not spell it.
// Some servers strip a blank or a Markdown fence around the text and leave it in the tokens. `thought`: other text may
// stand before it.
std::vector<Token> TokensOf(const Json& choice, const std::string& text, bool thought) {
  if (text.empty()) return {};
  std::vector<Token> tokens = ListedTokens(choice);
  std::string spelt;
  for (const Token& token : tokens) spelt += token.text;
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

// A string, or the texts of a list of parts.
std::string Text(const Json& json, const char* name) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_array()) return String(json, name);
  std::string text;
  for (const Json& part : *it) {
    if (!part.is_object()) continue;
    const std::string type = String(part, "type");
    if (type.empty() || type == "text" || type == "output_text") text += String(part, "text");
  }
  return text;
}

// Whether `name` stands in a text as a word of its own.
bool Names(absl::string_view text, absl::string_view name) {
  const auto is_word = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  for (size_t at = text.find(name); at != absl::string_view::npos; at = text.find(name, at + 1)) {
    const size_t end = at + name.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]))) return true;
  }
  return false;
}

bool HasAny(absl::string_view text, std::initializer_list<absl::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(), [&](absl::string_view part) { return absl::StrContains(text, part); });
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

std::string CompletionRequest(const v1::OpenAiConfig& config, const Dialect& dialect, const Ask& ask) {
  Json request = Base(config, dialect, ask);
  if (ask.shown.messages.empty()) {
    request["prompt"] = ask.shown.text;
  } else {
    request["messages"] = Json::array();
    for (const ChatMessage& message : ask.shown.messages) {
      request["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
    Constrain(dialect, ask.form, &request);
  }
  if (!config.extra_body().empty()) {
    const Json extra = Json::parse(config.extra_body(), nullptr, false);
    if (extra.is_object()) request.update(extra);
  }
  for (const std::string& name : dialect.left_out) request.erase(name);
  return request.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status CheckExtraBody(const v1::OpenAiConfig& config) {
  if (config.extra_body().empty()) return absl::OkStatus();
  const Json extra = Json::parse(config.extra_body(), nullptr, false);
  const auto invalid = [&](absl::string_view remedy) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: annotator.openai.extra_body is `", config.extra_body(), "`, must be ", remedy));
  };
  if (!extra.is_object()) return invalid("a JSON object, e.g. {\"reasoning_effort\": \"low\"}");
  for (const char* name : {"model", "messages", "prompt", "stream", "n"}) {
    if (extra.contains(name)) return invalid(absl::StrCat("without `", name, "`, which the annotator sets itself"));
  }
  return absl::OkStatus();
}

std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect, bool text) {
  Ask ask;
  if (text) {
    ask.shown.text = absl::StrCat("Question: ", kProbeQuestion, "\nAnswer:");
    ask.max_tokens = 1;
  } else {
    ask.shown.messages = {{"user", kProbeQuestion}};
    ask.form = BareChoiceForm(kProbeLabels);
    // As many as a query may take: a reasoning model thinks before it answers this, too.
    ask.max_tokens = config.max_tokens();
  }
  return CompletionRequest(config, dialect, ask);
}

bool ProbeBinds(const Dialect& dialect, const std::string& answer) {
  const std::string stripped(WithoutFence(answer));
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

std::vector<std::string> LeaveOutRefused(const std::string& request, const std::string& error, Dialect* dialect) {
  const Json sent = Json::parse(request, nullptr, false);
  const std::string lower = absl::AsciiStrToLower(error);
  // What is too long names fields, too.
  if (!sent.is_object() || HasAny(lower, {"context length", "context size", "context window", "too long"})) return {};
  const Json said = Json::parse(error, nullptr, false);
  std::string parameter;
  if (said.is_object() && said.contains("error") && said["error"].is_object())
    parameter = String(said["error"], "param");
  const bool refuses =
      HasAny(lower, {"support", "unknown", "unrecognized", "unexpected", "permitted", "allowed", "extra", "invalid",
                     "deprecated", "forbidden", "no such", "not understood", "use "});
  std::vector<std::string> refused;
  for (const auto& [name, value] : sent.items()) {
    // The new name stands in an error as the remedy.
    const bool renamed = name == "max_tokens" && Names(lower, "max_completion_tokens");
    if (IsEssential(name) || !(renamed || parameter == name || (refuses && Names(lower, name)))) continue;
    refused.push_back(name);
    if (renamed) {
      dialect->new_max_tokens = true;
    } else if (name == "logprobs" || name == "top_logprobs") {
      // Some servers list five alternatives at most.
      if (value.is_number() && value.get<int>() > 5) {
        dialect->top_logprobs = 5;
      } else {
        dialect->logprobs = false;
      }
    } else if (name == "response_format" || name == "structured_outputs") {
      dialect->constraint = Constraint::kNone;
    } else {
      dialect->left_out.insert(name);
    }
  }
  return refused;
}

Completion ReadCompletion(const std::string& body, uint32_t max_tokens) {
  Completion completion;
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("choices") || !json["choices"].is_array() || json["choices"].empty()) {
    return completion;
  }
  const Json& choice = json["choices"][0];
  if (!choice.is_object()) return completion;
  const bool chat = choice.contains("message") && choice["message"].is_object();
  if (!chat && !choice.contains("text")) return completion;
  const Json message = chat ? choice["message"] : Json{{"content", choice["text"]}};
  completion.valid = true;
  const std::string content = Text(message, "content");
  std::string thinking = Text(message, "reasoning_content");
  if (thinking.empty()) thinking = Text(message, "reasoning");
  if (json.contains("usage") && json["usage"].is_object()) {
    completion.prompt_tokens = Count(json["usage"], "prompt_tokens");
    completion.completion_tokens = Count(json["usage"], "completion_tokens");
  }
  const std::string end = String(choice, "finish_reason");
  const std::string refusal = String(message, "refusal");
  completion.refused = end == "content_filter" || !refusal.empty();
  Reply& reply = completion.reply;
  reply.cut = end == "length" || end == "max_tokens" ||
              (end.empty() && max_tokens > 0 && completion.completion_tokens >= max_tokens);
  completion.aborted =
      !completion.refused && !reply.cut && (end == "abort" || absl::StripAsciiWhitespace(content).empty());
  const std::optional<absl::string_view> answer = WithoutThinking(content);
  completion.thinks = !answer.has_value() || (content.empty() && !thinking.empty());
  if (answer.has_value()) {
    reply.text = std::string(*answer);
    // Thinking that the server kept apart is no part of the answer, but its tokens are listed with the answer's.
    reply.tokens = TokensOf(choice, reply.text, !thinking.empty() || answer->size() < content.size());
  }
  if (completion.thinks) reply.cut = true;
  completion.content = !thinking.empty() ? absl::StrCat("<think>", thinking, "</think>", content)
                       : content.empty() ? refusal
                                         : content;
  return completion;
}

}  // namespace sibyl::annotator
