// "compare": which of two captions is better. The labels are "first", "second" and "tie".

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/questions/choice.h"
#include "annotator/questions/kinds.h"

namespace sibyl::annotator {
namespace {

const Labels& CompareLabels() {
  static const auto& labels = *new Labels{"first", "second", "tie"};
  return labels;
}

absl::Status Check(const v1::Query& query) {
  const auto& labels = query.grammar().choice().labels();
  if (Labels(labels.begin(), labels.end()) != CompareLabels()) {
    return absl::InvalidArgumentError(absl::StrCat("grammar.choice.labels is [", absl::StrJoin(labels, ", "),
                                                   "], must be [first, second, tie] for `compare`"));
  }
  if (query.texts().at("first") == query.texts().at("second")) {
    return absl::InvalidArgumentError(absl::StrCat("texts.first and texts.second are both `", query.texts().at("first"),
                                                   "`; texts that are compared must differ"));
  }
  return absl::OkStatus();
}

Labels LabelsOf(const v1::Query& query) {
  return {query.grammar().choice().labels().begin(), query.grammar().choice().labels().end()};
}

AnswerForm Form(const v1::Query& query) { return ChoiceForm(LabelsOf(query)); }

Reading Read(const v1::Query& query, const Reply& reply) { return ReadChoice(LabelsOf(query), reply); }

// The place in the label set to expect.
double MeanLabel(const std::vector<float>& distribution) {
  double mean = 0;
  for (size_t i = 0; i < distribution.size(); ++i) mean += static_cast<double>(i) * distribution[i];
  return mean;
}

// The better text is the one whose label stands later in the label set, on average. Abstains where the rules abstain
// on one of the two.
absl::StatusOr<Reading> ByLabels(const v1::Query& query, const LabelRules& rules) {
  const std::vector<float> first = rules.LabelsOf(query.texts().at("first"));
  const std::vector<float> second = rules.LabelsOf(query.texts().at("second"));
  if (first.empty() || second.empty()) return Chosen({});
  const double a = MeanLabel(first), b = MeanLabel(second);
  return Chosen(a > b   ? std::vector<float>{1, 0, 0}
                : a < b ? std::vector<float>{0, 1, 0}
                        : std::vector<float>{0, 0, 1});
}

}  // namespace

Question Compare() {
  return {.kind = "compare",
          .texts = {{"first"}, {"second"}, {"context", /*required=*/false}},
          .check = Check,
          .form = Form,
          .read = Read,
          .by_labels = ByLabels};
}

}  // namespace sibyl::annotator
