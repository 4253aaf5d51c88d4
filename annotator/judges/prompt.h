#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "annotator/questions/question.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// One message of a chat.
struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// A prompt file: "[system]", "[user]" and "[assistant]" on lines of their own begin the messages. {goal}, {labels},
// {schema} and the kind's slots ({caption}, {context}, ...) stand for what the query holds, "{{" and "}}" for braces. A
// line with an optional slot is left out when the query has no such text. Lines before the first message are comment.
// The slots tell the kind: a prompt with {caption} classifies, one with {first} and {second} compares.
class Prompt {
 public:
  // Errors name file, line, text and remedy.
  static absl::StatusOr<Prompt> Load(const std::string& path);
  static absl::StatusOr<Prompt> Parse(const std::string& path, const std::string& text);

  // "<file's name>@<hash>", as Label.prompt.
  const std::string& name() const { return name_; }
  // The kind that it asks.
  const std::string& kind() const { return kind_; }
  // The messages for a query of that kind.
  std::vector<ChatMessage> Render(const v1::Query& query) const;

 private:
  struct Piece {
    std::string text;         // as it is, or
    std::string placeholder;  // e.g. "goal"
  };
  using Line = std::vector<Piece>;
  struct Message {
    std::string role;
    std::vector<Line> lines;
  };

  std::string name_;
  std::string kind_;
  std::vector<Message> messages_;
};

}  // namespace sibyl::annotator
