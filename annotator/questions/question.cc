#include "annotator/questions/question.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/questions/kinds.h"

namespace sibyl::annotator {
namespace {

absl::Status CheckLength(absl::string_view name, const std::string& text) {
  if (text.size() <= kMaxTextBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has ", text.size(), " bytes, may have at most ", kMaxTextBytes));
}

template <typename Range>
std::string Names(const Range& range) {
  return absl::StrJoin(range, ", ", [](std::string* out, const auto& entry) { absl::StrAppend(out, entry); });
}

}  // namespace

const std::vector<Question>& Questions() {
  static const auto& questions = *new std::vector<Question>{Classify(), Compare(), Compose()};
  return questions;
}

const Question* FindQuestion(absl::string_view kind) {
  for (const Question& question : Questions()) {
    if (question.kind == kind) return &question;
  }
  return nullptr;
}

absl::Status CheckQuery(const v1::Query& query) {
  const auto invalid = [](const auto&... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
  const Question* question = FindQuestion(query.kind());
  if (question == nullptr) {
    std::vector<std::string> kinds;
    for (const Question& each : Questions()) kinds.push_back(each.kind);
    return invalid("kind is `", query.kind(), "`, must be one of ", Names(kinds));
  }
  std::vector<std::string> names;
  for (const TextField& field : question->texts) {
    names.push_back(field.required ? field.name : absl::StrCat(field.name, " (optional)"));
    if (field.required && !query.texts().contains(field.name)) {
      return invalid("texts has no `", field.name, "`; `", query.kind(), "` needs it");
    }
  }
  for (const auto& [name, text] : query.texts()) {
    const bool known = std::any_of(question->texts.begin(), question->texts.end(),
                                   [&name = name](const TextField& field) { return field.name == name; });
    if (!known) return invalid("texts has `", name, "`; `", query.kind(), "` takes ", Names(names));
    if (text.empty()) return invalid("texts.", name, " is empty; leave it out, or do not ask");
    if (auto status = CheckLength(absl::StrCat("texts.", name), text); !status.ok()) return status;
  }
  if (query.goal().empty()) return invalid("goal is empty; a label belongs to its goal");
  if (auto status = CheckLength("goal", query.goal()); !status.ok()) return status;
  if (!(query.priority() == query.priority())) return invalid("priority is not a number");
  return question->check(query);
}

}  // namespace sibyl::annotator
