#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// One message of a chat.
struct ChatMessage {
  std::string role;  // "system" or "user"
  std::string content;
};

// A prompt file: "[system]" and "[user]" on lines of their own begin the messages; {goal}, {labels}, {context},
// {caption}, {first} and {second} stand for what the query holds, "{{" and "}}" for braces. A line with {context} is
// left out when the query has none. Lines before the first message are comment.
// A prompt with {caption} asks to classify, one with {first} and {second} to compare.
class Prompt {
 public:
  // Errors name file, line, text and remedy.
  static absl::StatusOr<Prompt> Load(const std::string& path);
  static absl::StatusOr<Prompt> Parse(const std::string& path, const std::string& text);

  // "<file's name>@<hash>", as Label.prompt.
  const std::string& name() const { return name_; }
  // What it can ask.
  v1::QueryKind kind() const { return kind_; }
  // The messages for a query of that kind.
  std::vector<ChatMessage> Render(const v1::Query& query) const;

 private:
  struct Piece {
    std::string text;         // as it is, or
    std::string placeholder;  // e.g. "goal"
  };
  struct Line {
    std::vector<Piece> pieces;
    bool has_context = false;
  };
  struct Message {
    std::string role;
    std::vector<Line> lines;
  };

  std::string name_;
  v1::QueryKind kind_ = v1::QUERY_KIND_CLASSIFY;
  std::vector<Message> messages_;
};

}  // namespace sibyl::annotator
