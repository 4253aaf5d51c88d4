#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "annotator/questions/question.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// One message of a chat.
struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// What a model is shown: the messages of a chat, or a text that it continues.
struct Conversation {
  std::vector<ChatMessage> messages;  // empty: `text`
  std::string text;
};

// A prompt file. Lines before the first section are comment. A section begins with its name in brackets on a line of
// its own:
//
//   [system] [user] [assistant]  the messages of a chat, in order
//   [text]                       in place of messages: a part of one text, which the model continues
//   [words]                      "label: word" a line: what stands for a label in answers; left out: the label itself
//   [example]                    "name: text" a line: a query (`goal`, the kind's texts) and its `answer`, a label
//
// In messages and texts, {goal}, {labels}, {schema} and the kind's texts ({caption}, {context}, ...) stand for what the
// query holds, "{{" and "}}" for braces. A line with the placeholder of an optional text is left out when the query has
// no such text. The placeholders tell the kind: a prompt with {caption} classifies, one with {first} and {second}
// compares.
//
// {answer} at the end of the last section asks for a direct verdict: the model's next word. {reasoning} before it has
// the model reason first, in a request of its own. Without {answer} the model writes freely and names its label itself.
// Examples need {answer}. The question is every section from the first one with a text's placeholder or {goal} on,
// [system] apart. The question is shown once for each example with its answer, and then for the query, up to {answer}.
//
// Texts of a query are not trusted: in a [text] their line breaks become blanks, and what could be read as a control
// mark of a chat template or as the end of a tag ("<|im_end|>", "</event>", "[INST]") is broken up by a blank.
class Prompt {
 public:
  enum class Form { kFree, kDirect, kReasoned };

  // Errors name file, line, text and remedy.
  static absl::StatusOr<Prompt> Load(const std::string& path);
  static absl::StatusOr<Prompt> Parse(const std::string& path, const std::string& text);

  // "<file's name>@<hash>", as Label.prompt. Comment is not part of the hash.
  const std::string& name() const { return name_; }
  // The kind that it asks.
  const std::string& kind() const { return kind_; }
  Form form() const { return form_; }
  // The model continues a text; else it answers in a chat.
  bool is_text() const { return sections_.front().role == "text"; }

  // InvalidArgument for a query of that kind whose labels the prompt's words or examples do not fit.
  absl::Status Check(const v1::Query& query) const;
  // The words that stand for the query's labels, in their order.
  std::vector<std::string> Words(const v1::Query& query) const;
  // What the model is shown first: up to {reasoning}, {answer} or the end.
  Conversation Render(const v1::Query& query) const;
  // Up to {answer}, once the model has reasoned; for kReasoned.
  Conversation RenderReasoned(const v1::Query& query, const std::string& reasoning) const;

 private:
  struct Piece {
    std::string text;         // as it is, or
    std::string placeholder;  // e.g. "goal"
  };
  using Line = std::vector<Piece>;
  struct Section {
    std::string role;
    std::vector<Line> lines;
    bool Has(const std::string& placeholder) const;
  };
  struct Example {
    int line = 0;  // in the file
    v1::Query query;
    std::string answer;
    std::string reasoning;
  };
  // A query, and what {answer} and {reasoning} stand for; nullopt: rendering ends there.
  struct Filling {
    const v1::Query& query;
    std::optional<std::string> reasoning, answer;
  };

  std::optional<std::string> Value(const std::string& placeholder, const Filling& filling) const;
  // Appends these sections. False where it ended at {answer} or {reasoning}.
  bool Append(size_t begin, size_t end, const Filling& filling, Conversation* conversation) const;
  Conversation Render(const Filling& filling) const;
  std::string WordOf(const std::string& label) const;

  std::string name_;
  std::string kind_;
  Form form_ = Form::kFree;
  std::vector<Section> sections_;
  size_t question_ = 0;                                     // the first section that is repeated for examples
  std::vector<std::pair<std::string, std::string>> words_;  // label and word
  std::vector<Example> examples_;
};

}  // namespace sibyl::annotator
