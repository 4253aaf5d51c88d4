// "classify": which label fits a caption.

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/questions/choice.h"
#include "annotator/questions/kinds.h"

namespace sibyl::annotator {
namespace {

Labels LabelsOf(const v1::Query& query) {
  return {query.grammar().choice().labels().begin(), query.grammar().choice().labels().end()};
}

absl::Status Check(const v1::Query& query) { return CheckLabels(query.grammar()); }

AnswerForm Form(const v1::Query& query) { return ChoiceForm(LabelsOf(query)); }

Reading Read(const v1::Query& query, const Reply& reply) { return ReadChoice(LabelsOf(query), reply); }

absl::StatusOr<Reading> ByLabels(const v1::Query& query, const LabelRules& rules) {
  if (LabelsOf(query) != rules.labels()) {
    return absl::InvalidArgumentError(
        absl::StrCat("grammar.choice.labels is [", absl::StrJoin(LabelsOf(query), ", "), "], the rules of ",
                     rules.path(), " give [", absl::StrJoin(rules.labels(), ", "), "]; change the one or the other"));
  }
  return Chosen(rules.LabelsOf(query.texts().at("caption")));
}

}  // namespace

Question Classify() {
  return {.kind = "classify",
          .texts = {{"caption"}, {"context", /*required=*/false}},
          .check = Check,
          .form = Form,
          .read = Read,
          .by_labels = ByLabels};
}

}  // namespace sibyl::annotator
