#include "annotator/judges/prompt.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/judges/query_key.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

// Placeholders that every kind has.
const std::set<std::string>& Common() {
  static const auto& common = *new std::set<std::string>{"goal", "labels", "schema"};
  return common;
}

// Those, and the slots of every kind.
std::vector<std::string> Placeholders() {
  std::vector<std::string> names(Common().begin(), Common().end());
  for (const Question& question : Questions()) {
    for (const Slot& slot : question.slots) {
      if (std::find(names.begin(), names.end(), slot.name) == names.end()) names.push_back(slot.name);
    }
  }
  return names;
}

// The kind whose slots these placeholders are; nullptr: none.
const Question* KindOf(const std::set<std::string>& used) {
  for (const Question& question : Questions()) {
    std::set<std::string> slots;
    bool complete = true;
    for (const Slot& slot : question.slots) {
      slots.insert(slot.name);
      complete &= !slot.required || used.contains(slot.name);
    }
    const bool foreign = std::any_of(used.begin(), used.end(), [&](const std::string& name) {
      return !Common().contains(name) && !slots.contains(name);
    });
    if (complete && !foreign) return &question;
  }
  return nullptr;
}

// "classify needs {caption}, compare needs {first} and {second}".
std::string Needs() {
  return absl::StrJoin(Questions(), ", ", [](std::string* out, const Question& question) {
    std::vector<std::string> slots;
    for (const Slot& slot : question.slots) {
      if (slot.required) slots.push_back(absl::StrCat("{", slot.name, "}"));
    }
    absl::StrAppend(out, question.kind, " needs ", absl::StrJoin(slots, " and "));
  });
}

// What a placeholder stands for; nullopt: the query has no such text.
std::optional<std::string> Value(const std::string& placeholder, const v1::Query& query) {
  if (placeholder == "goal") return query.goal();
  if (placeholder == "labels") return absl::StrJoin(query.grammar().choice().labels(), ", ");
  if (placeholder == "schema") return query.grammar().json_schema();
  const auto it = query.texts().find(placeholder);
  if (it == query.texts().end()) return std::nullopt;
  return it->second;
}

}  // namespace

absl::StatusOr<Prompt> Prompt::Load(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return Parse(path, text);
}

absl::StatusOr<Prompt> Prompt::Parse(const std::string& path, const std::string& text) {
  Prompt prompt;
  prompt.name_ = absl::StrCat(std::filesystem::path(path).filename().string(), "@", HexDigest(text).substr(0, 8));
  const std::vector<std::string> placeholders = Placeholders();
  std::set<std::string> used;
  int number = 0;
  const auto invalid = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", parts...));
  };
  for (absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view stripped = absl::StripTrailingAsciiWhitespace(raw);
    if (stripped == "[system]" || stripped == "[user]" || stripped == "[assistant]") {
      prompt.messages_.push_back({std::string(stripped.substr(1, stripped.size() - 2)), {}});
      continue;
    }
    if (prompt.messages_.empty()) continue;
    if (ValidUtf8(raw) != raw) return invalid("the line is not UTF-8; save the file as UTF-8");
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
    if (!literal.empty()) line.push_back({literal, ""});
    prompt.messages_.back().lines.push_back(std::move(line));
  }
  if (prompt.messages_.empty()) return invalid("the file has no message; begin one with a line `[user]`");
  const Question* question = KindOf(used);
  if (question == nullptr) {
    return invalid("the file ends, and its placeholders [", absl::StrJoin(used, ", "),
                   "] fit no kind of question: ", Needs(),
                   "; put what differs between queries at the end, so that the server can reuse the rest");
  }
  prompt.kind_ = question->kind;
  return prompt;
}

std::vector<ChatMessage> Prompt::Render(const v1::Query& query) const {
  std::vector<ChatMessage> messages;
  for (const Message& message : messages_) {
    std::string content;
    for (const Line& line : message.lines) {
      std::string rendered;
      bool complete = true;
      for (const Piece& piece : line) {
        const std::optional<std::string> value =
            piece.placeholder.empty() ? piece.text : Value(piece.placeholder, query);
        complete &= value.has_value();
        rendered += value.value_or("");
      }
      if (complete) absl::StrAppend(&content, rendered, "\n");
    }
    messages.push_back({message.role, std::string(absl::StripAsciiWhitespace(content))});
  }
  return messages;
}

}  // namespace sibyl::annotator
