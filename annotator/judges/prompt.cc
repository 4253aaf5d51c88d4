#include "annotator/judges/prompt.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/judges/query_key.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

constexpr char kAnswer[] = "answer", kReasoning[] = "reasoning";

// Placeholders that every kind has.
const std::set<std::string>& Common() {
  static const auto& common = *new std::set<std::string>{"goal", "labels", "schema", kAnswer, kReasoning};
  return common;
}

// Those, and the texts of every kind.
std::vector<std::string> Placeholders() {
  std::vector<std::string> names(Common().begin(), Common().end());
  for (const Question& question : Questions()) {
    for (const TextField& field : question.texts) {
      if (std::find(names.begin(), names.end(), field.name) == names.end()) names.push_back(field.name);
    }
  }
  return names;
}

// The kind whose texts these placeholders are; nullptr: none.
const Question* KindOf(const std::set<std::string>& used) {
  for (const Question& question : Questions()) {
    std::set<std::string> names;
    bool complete = true;
    for (const TextField& field : question.texts) {
      names.insert(field.name);
      complete &= !field.required || used.contains(field.name);
    }
    const bool foreign = std::any_of(used.begin(), used.end(), [&](const std::string& name) {
      return !Common().contains(name) && !names.contains(name);
    });
    if (complete && !foreign) return &question;
  }
  return nullptr;
}

// "classify needs {caption}, compare needs {first} and {second}".
std::string Needs() {
  return absl::StrJoin(Questions(), ", ", [](std::string* out, const Question& question) {
    std::vector<std::string> names;
    for (const TextField& field : question.texts) {
      if (field.required) names.push_back(absl::StrCat("{", field.name, "}"));
    }
    absl::StrAppend(out, question.kind, " needs ", absl::StrJoin(names, " and "));
  });
}

// A query's text, made harmless: no model reads it as a control mark, and no tag around it is closed by it.
std::string Inert(absl::string_view text, bool one_line) {
  std::string inert;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (one_line && (c == '\n' || c == '\r')) {
      inert.push_back(' ');
      continue;
    }
    inert.push_back(c);
    const absl::string_view rest = text.substr(i + 1);
    const bool tag =
        c == '<' && !rest.empty() &&
        (absl::ascii_isalpha(static_cast<unsigned char>(rest[0])) || absl::StrContains("/|", rest.substr(0, 1)));
    const bool bracket = c == '[' && (absl::StartsWith(rest, "/") || absl::StartsWith(rest, "INST") ||
                                      absl::StartsWith(rest, "THINK") || absl::StartsWith(rest, "SYS"));
    if (tag || bracket) inert.push_back(' ');
  }
  return inert;
}

bool IsRole(absl::string_view name) {
  return name == "system" || name == "user" || name == "assistant" || name == "text";
}

// "name: text" of a line of [words] or [example].
std::optional<std::pair<std::string, std::string>> Named(absl::string_view line) {
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos) return std::nullopt;
  const std::pair<std::string, std::string> named = {std::string(absl::StripAsciiWhitespace(line.substr(0, colon))),
                                                     std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)))};
  if (named.first.empty() || named.second.empty()) return std::nullopt;
  return named;
}

}  // namespace

bool Prompt::Section::Has(const std::string& placeholder) const {
  return std::any_of(lines.begin(), lines.end(), [&](const Line& line) {
    return std::any_of(line.begin(), line.end(), [&](const Piece& piece) { return piece.placeholder == placeholder; });
  });
}

absl::StatusOr<Prompt> Prompt::Load(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return Parse(path, text);
}

absl::StatusOr<Prompt> Prompt::Parse(const std::string& path, const std::string& text) {
  Prompt prompt;
  const std::vector<std::string> placeholders = Placeholders();
  std::set<std::string> used;
  int number = 0;
  const auto invalid = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", parts...));
  };
  std::string section;         // that the lines belong to; empty: comment
  absl::string_view relevant;  // the text without its comment
  for (absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view stripped = absl::StripTrailingAsciiWhitespace(raw);
    if (stripped.size() > 2 && stripped.front() == '[' && stripped.back() == ']') {
      const std::string name(stripped.substr(1, stripped.size() - 2));
      if (IsRole(name)) {
        if (!prompt.sections_.empty() && prompt.is_text() != (name == "text")) {
          return invalid("`[", name, "]` stands beside `[", prompt.sections_.front().role,
                         "]`; a prompt is a chat or a [text]");
        }
        prompt.sections_.push_back({name, {}});
      } else if (name == "example") {
        prompt.examples_.push_back({.line = number});
      } else if (name != "words") {
        // A line in brackets may be part of a message; outside of one it is a section nobody knows.
        if (!IsRole(section)) {
          return invalid("there is no section `[", name,
                         "]`; there are [system], [user], [assistant], [text], [words] and [example]");
        }
      }
      if (IsRole(name) || name == "example" || name == "words") {
        if (section.empty()) relevant = absl::string_view(text).substr(raw.data() - text.data());
        section = name;
        continue;
      }
    }
    if (section.empty()) continue;
    if (ValidUtf8(raw) != raw) return invalid("the line is not UTF-8; save the file as UTF-8");
    if (!IsRole(section)) {
      if (stripped.empty()) continue;
      auto named = Named(stripped);
      if (!named.has_value()) return invalid("`", stripped, "` must be `name: text`");
      if (section == "words") {
        prompt.words_.push_back(*std::move(named));
        continue;
      }
      Example& example = prompt.examples_.back();
      if (named->first == kAnswer) {
        example.answer = std::move(named->second);
      } else if (named->first == kReasoning) {
        example.reasoning = std::move(named->second);
      } else if (named->first == "goal") {
        example.query.set_goal(named->second);
      } else {
        (*example.query.mutable_texts())[named->first] = std::move(named->second);
      }
      continue;
    }
    Line line;
    std::string literal;
    for (size_t i = 0; i < raw.size(); ++i) {
      const char c = raw[i];
      if ((c == '{' || c == '}') && i + 1 < raw.size() && raw[i + 1] == c) {
        literal.push_back(c);
        ++i;
      } else if (c == '{') {
        const size_t end = raw.find('}', i);
        const std::string name(raw.substr(i + 1, end == absl::string_view::npos ? end : end - i - 1));
        if (end == absl::string_view::npos ||
            std::find(placeholders.begin(), placeholders.end(), name) == placeholders.end()) {
          return invalid("`{", name, end == absl::string_view::npos ? "" : "}", "` is no placeholder; there are {",
                         absl::StrJoin(placeholders, "}, {"), "}, and {{ and }} for braces");
        }
        if (used.contains(kAnswer)) return invalid("`{", name, "}` stands behind {answer}, which ends the prompt");
        if ((name == kAnswer || name == kReasoning) && !prompt.is_text() &&
            prompt.sections_.back().role != "assistant") {
          return invalid("`{", name, "}` must stand in an [assistant] message or a [text]");
        }
        if (name == kReasoning && used.contains(kReasoning)) return invalid("`{reasoning}` stands twice");
        if (!literal.empty()) line.push_back({literal, ""});
        literal.clear();
        line.push_back({"", name});
        used.insert(name);
        i = end;
      } else if (c == '}') {
        return invalid("a `}` without its `{`; write }} for a brace");
      } else {
        literal.push_back(c);
      }
    }
    if (used.contains(kAnswer) && !absl::StripAsciiWhitespace(literal).empty()) {
      return invalid("`", absl::StripAsciiWhitespace(literal), "` stands behind {answer}, which ends the prompt");
    }
    if (!literal.empty()) line.push_back({literal, ""});
    prompt.sections_.back().lines.push_back(std::move(line));
  }
  if (prompt.sections_.empty()) return invalid("the file has no message; begin one with a line `[user]` or `[text]`");
  if (used.contains(kReasoning) && !used.contains(kAnswer)) {
    return invalid("the file has {reasoning} and no {answer}; end its last section with {answer}");
  }
  if (!prompt.sections_.back().Has(kAnswer) && used.contains(kAnswer)) {
    return invalid("{answer} does not stand in the last section, which it must end");
  }
  const Question* question = KindOf(used);
  if (question == nullptr) {
    return invalid("the file ends, and its placeholders [", absl::StrJoin(used, ", "),
                   "] fit no kind of question: ", Needs(),
                   "; put what differs between queries at the end, so that the server can reuse the rest");
  }
  prompt.kind_ = question->kind;
  prompt.form_ = used.contains(kReasoning) ? Form::kReasoned : used.contains(kAnswer) ? Form::kDirect : Form::kFree;
  if (prompt.form_ != Form::kFree && question->by_labels == nullptr) {
    return invalid("{answer} stands for a label, and `", question->kind, "` is not answered by one");
  }
  if ((!prompt.examples_.empty() || !prompt.words_.empty()) && prompt.form_ == Form::kFree) {
    return invalid("[example] and [words] need {answer} at the end of the last section, where the answers stand");
  }
  for (const Example& example : prompt.examples_) {
    number = example.line;
    for (const TextField& field : question->texts) {
      if (field.required && !example.query.texts().contains(field.name)) {
        return invalid("the example has no `", field.name, "`");
      }
    }
    for (const auto& [name, value] : example.query.texts()) {
      const bool known = std::any_of(question->texts.begin(), question->texts.end(),
                                     [&name = name](const TextField& field) { return field.name == name; });
      if (!known) return invalid("the example has `", name, "`, which `", question->kind, "` does not take");
    }
    if (example.answer.empty()) return invalid("the example has no `answer`, the label that is right");
    if (prompt.form_ == Form::kReasoned && example.reasoning.empty()) {
      return invalid("the example has no `reasoning`, which the prompt shows");
    }
  }
  prompt.question_ = 0;
  while (prompt.question_ + 1 < prompt.sections_.size()) {
    const Section& each = prompt.sections_[prompt.question_];
    const bool asks = each.Has("goal") || each.Has(kAnswer) || each.Has(kReasoning) ||
                      std::any_of(question->texts.begin(), question->texts.end(),
                                  [&](const TextField& field) { return each.Has(field.name); });
    if (asks && each.role != "system") break;
    ++prompt.question_;
  }
  prompt.name_ =
      absl::StrCat(std::filesystem::path(path).filename().string(), "@", HexDigest(std::string(relevant)).substr(0, 8));
  return prompt;
}

std::string Prompt::WordOf(const std::string& label) const {
  for (const auto& [of, word] : words_) {
    if (of == label) return word;
  }
  return label;
}

std::vector<std::string> Prompt::Words(const v1::Query& query) const {
  std::vector<std::string> words;
  for (const std::string& label : query.grammar().choice().labels()) words.push_back(WordOf(label));
  return words;
}

absl::Status Prompt::Check(const v1::Query& query) const {
  const auto& labels = query.grammar().choice().labels();
  const auto known = [&](const std::string& label) {
    return std::find(labels.begin(), labels.end(), label) != labels.end();
  };
  const auto invalid = [&](const auto&... parts) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt ", name_, " ", parts..., "; the labels are [", absl::StrJoin(labels, ", "), "]"));
  };
  for (const auto& [label, word] : words_) {
    if (!known(label)) return invalid("has a word for `", label, "`, which is no label of the query");
  }
  for (const Example& example : examples_) {
    if (!known(example.answer)) {
      return invalid("has an example in line ", example.line, " with the answer `", example.answer,
                     "`, which is no label of the query");
    }
  }
  const std::vector<std::string> words = Words(query);
  if (std::set<std::string>(words.begin(), words.end()).size() != words.size()) {
    return invalid("has one word for two labels");
  }
  return absl::OkStatus();
}

// What a placeholder stands for; nullopt: the query has no such text.
std::optional<std::string> Prompt::Value(const std::string& placeholder, const Filling& filling) const {
  if (placeholder == "goal") return filling.query.goal();
  if (placeholder == "labels") return absl::StrJoin(Words(filling.query), ", ");
  if (placeholder == "schema") return filling.query.grammar().json_schema();
  if (placeholder == kAnswer) return filling.answer;
  if (placeholder == kReasoning) return filling.reasoning;
  const auto it = filling.query.texts().find(placeholder);
  if (it == filling.query.texts().end()) return std::nullopt;
  return Inert(it->second, is_text());
}

bool Prompt::Append(size_t begin, size_t end, const Filling& filling, Conversation* conversation) const {
  for (size_t i = begin; i < end; ++i) {
    const Section& section = sections_[i];
    std::string content;
    bool ended = false;
    for (const Line& line : section.lines) {
      std::string rendered;
      bool complete = true;
      for (const Piece& piece : line) {
        const std::optional<std::string> value =
            piece.placeholder.empty() ? piece.text : Value(piece.placeholder, filling);
        if (!value.has_value() && (piece.placeholder == kAnswer || piece.placeholder == kReasoning)) {
          ended = true;
          break;
        }
        complete &= value.has_value();
        rendered += value.value_or("");
      }
      if (complete) absl::StrAppend(&content, rendered, "\n");
      if (ended) break;
    }
    content = std::string(absl::StripAsciiWhitespace(content));
    if (is_text()) {
      if (!conversation->text.empty() && !content.empty()) absl::StrAppend(&conversation->text, "\n\n");
      absl::StrAppend(&conversation->text, content);
    } else if (!ended || !content.empty()) {
      conversation->messages.push_back({section.role, content});
    }
    if (ended) return false;
  }
  return true;
}

Conversation Prompt::Render(const Filling& filling) const {
  Conversation conversation;
  Append(0, question_, filling, &conversation);
  for (const Example& example : examples_) {
    v1::Query query = example.query;
    if (query.goal().empty()) query.set_goal(filling.query.goal());
    *query.mutable_grammar() = filling.query.grammar();
    Append(question_, sections_.size(), {query, example.reasoning, WordOf(example.answer)}, &conversation);
  }
  Append(question_, sections_.size(), filling, &conversation);
  return conversation;
}

Conversation Prompt::Render(const v1::Query& query) const { return Render(Filling{query, std::nullopt, std::nullopt}); }

Conversation Prompt::RenderReasoned(const v1::Query& query, const std::string& reasoning) const {
  return Render(Filling{query, std::string(absl::StripAsciiWhitespace(reasoning)), std::nullopt});
}

}  // namespace sibyl::annotator
