#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sibyl/v1/annotator.pb.h"

// A kind of question is one file in this folder: which texts it takes, which queries it refuses, the form of its
// answers, and how an answer is read. Judges, prompts, rules, the store and the service ask the Question; none of them
// knows a kind by name.

namespace sibyl::annotator {

// Longest text or goal, in bytes.
inline constexpr size_t kMaxTextBytes = 65'536;

// A text that a kind takes (Query.texts), and the placeholder of the same name in its prompts.
struct TextField {
  std::string name;
  bool required = true;
};

// The form of an answer, for servers that can be held to one.
struct AnswerForm {
  // Schema of the whole answer; empty: plain text.
  std::string json_schema;
  // All that the answer may be where the server takes a list of choices instead of a schema; empty: it is no choice.
  std::vector<std::string> choices;
};

// A token that a server wrote, with the likeliest alternatives at its place.
struct Token {
  std::string text;
  double logprob = 0;
  std::vector<std::pair<std::string, double>> top;  // text and log-probability
};

// What a judge wrote.
struct Reply {
  // The answer, without the judge's thinking.
  std::string text;
  // The answer ended at a limit of tokens, not where the judge would have ended it.
  bool cut = false;
  // The tokens that spell `text`, in order; empty: not known.
  std::vector<Token> tokens;
};

// What an answer says. `answer` is set for ANSWERED.
struct Reading {
  v1::Outcome outcome = v1::OUTCOME_UNPARSABLE;
  v1::Answer answer;
};

// The labels that a file of rules gives to texts (judges/rules_judge.h).
class LabelRules {
 public:
  virtual ~LabelRules() = default;
  // The file.
  virtual const std::string& path() const = 0;
  // The labels, the worst first.
  virtual const std::vector<std::string>& labels() const = 0;
  // Probability of each label for a text; empty: the rules abstain.
  virtual std::vector<float> LabelsOf(const std::string& text) const = 0;
};

// A kind of question. Plain data; the functions are called only for queries of this kind, from any thread.
struct Question {
  // Query.kind.
  std::string kind;
  std::vector<TextField> texts;
  // InvalidArgument for a query that breaks the kind's own rules; names the field, its value and the remedy. Texts,
  // lengths and the goal have been checked before (CheckQuery).
  absl::Status (*check)(const v1::Query& query);
  // The form of the answers to a query that passed `check`.
  AnswerForm (*form)(const v1::Query& query);
  // Reads an answer. A reply that was cut off never yields an answer.
  Reading (*read)(const v1::Query& query, const Reply& reply);
  // Answers a query from the labels that rules give to its texts; InvalidArgument where they cannot. nullptr: rules
  // answer this kind only in a section of their own.
  absl::StatusOr<Reading> (*by_labels)(const v1::Query& query, const LabelRules& rules);
};

// Every kind.
const std::vector<Question>& Questions();

// The kind of that name; nullptr: there is none.
const Question* FindQuestion(absl::string_view kind);

// InvalidArgument for a query that breaks the contract of annotator.proto or its kind's rules; names the field, its
// value and the remedy.
absl::Status CheckQuery(const v1::Query& query);

}  // namespace sibyl::annotator
