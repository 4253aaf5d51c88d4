#include "annotator/prompt.h"

#include <filesystem>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/query_identity.h"
#include "annotator/utf8.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

constexpr absl::string_view kPlaceholders[] = {"goal", "labels", "context", "caption", "first", "second"};

std::string Value(const std::string& placeholder, const v1::Query& query) {
  if (placeholder == "goal") return query.goal();
  if (placeholder == "labels") return absl::StrJoin(query.label_set(), ", ");
  if (placeholder == "context") return query.context();
  return query.captions(placeholder == "second" ? 1 : 0);
}

}  // namespace

absl::StatusOr<Prompt> Prompt::Load(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return Parse(path, text);
}

absl::StatusOr<Prompt> Prompt::Parse(const std::string& path, const std::string& text) {
  Prompt prompt;
  prompt.name_ = absl::StrCat(std::filesystem::path(path).filename().string(), "@", HexDigest(text).substr(0, 8));
  std::map<std::string, int> used;  // placeholder -> line
  int number = 0;
  for (absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const auto invalid = [&](const auto&... parts) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", parts...));
    };
    const absl::string_view stripped = absl::StripTrailingAsciiWhitespace(raw);
    if (stripped == "[system]" || stripped == "[user]") {
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
            std::find(std::begin(kPlaceholders), std::end(kPlaceholders), name) == std::end(kPlaceholders)) {
          return invalid("`{", name, end == absl::string_view::npos ? "" : "}", "` is no placeholder; there are {",
                         absl::StrJoin(kPlaceholders, "}, {"), "}, and {{ and }} for braces");
        }
        if (!literal.empty()) line.pieces.push_back({literal, ""});
        literal.clear();
        line.pieces.push_back({"", name});
        line.has_context |= name == "context";
        used.emplace(name, number);
        i = end;
      } else if (c == '}') {
        return invalid("a `}` without its `{`; write }} for a brace");
      } else {
        literal.push_back(c);
      }
    }
    if (!literal.empty()) line.pieces.push_back({literal, ""});
    prompt.messages_.back().lines.push_back(std::move(line));
  }
  const auto lacks = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", parts...));
  };
  if (prompt.messages_.empty()) return lacks("the file has no message; begin one with a line `[user]`");
  const bool compares = used.count("first") > 0 || used.count("second") > 0;
  if (compares && used.count("caption") > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", used["caption"],
                     ": {caption} beside {first} or {second}; a prompt asks about one caption, or "
                     "compares two"));
  }
  if (compares) {
    for (const char* name : {"first", "second"}) {
      if (used.count(name) == 0)
        return lacks("the file ends without {", name, "}; a comparison needs {first} and {second}");
    }
    prompt.kind_ = v1::QUERY_KIND_COMPARE;
  } else if (used.count("caption") == 0) {
    return lacks("the file ends without {caption}; put it at the end, so that the server can reuse what stands before");
  }
  return prompt;
}

std::vector<ChatMessage> Prompt::Render(const v1::Query& query) const {
  std::vector<ChatMessage> messages;
  for (const Message& message : messages_) {
    std::string content;
    for (const Line& line : message.lines) {
      if (line.has_context && query.context().empty()) continue;
      for (const Piece& piece : line.pieces) {
        content += piece.placeholder.empty() ? piece.text : Value(piece.placeholder, query);
      }
      content += '\n';
    }
    messages.push_back({message.role, std::string(absl::StripAsciiWhitespace(content))});
  }
  return messages;
}

}  // namespace sibyl::annotator
