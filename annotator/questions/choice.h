#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "annotator/questions/question.h"

namespace sibyl::annotator {

// What the kinds whose answer is one of several labels share. By the word "abstain" in a label's place a judge declines
// to choose.
using Labels = std::vector<std::string>;

// InvalidArgument for labels that cannot be told apart in an answer.
absl::Status CheckLabels(const v1::Grammar& grammar);

// A JSON object with "knowledge", "analysis" and the label; or the label alone.
AnswerForm ChoiceForm(const Labels& labels);

// The label alone, as a JSON object or as it is; without "abstain".
AnswerForm BareChoiceForm(const Labels& labels);

// A soft label where the reply's tokens show the probabilities at the label's place, else a hard one.
Reading ReadChoice(const Labels& labels, const Reply& reply);

// A reply that begins with its label: the probabilities at its first word, whatever the word is. A label whose words
// are not among the likeliest ones has none. UNPARSABLE where the labels together have less than a tenth; without
// log-probabilities the reply's first line is read as ReadChoice does.
Reading ReadDirect(const Labels& labels, const Reply& reply);

// ANSWERED with this distribution; ABSTAINED where it is empty.
Reading Chosen(std::vector<float> distribution, float outside = 0);

// A label found in a text.
struct FoundLabel {
  enum Kind { kLabel, kAbstained, kUnparsable };
  Kind kind = kUnparsable;
  int label = -1;                     // index in the labels, for kLabel
  size_t offset = std::string::npos;  // where the label begins in the text, for kLabel; npos: not known
};

// Finds the label that a text ends in. In this order:
// - a JSON object: the value of its "label", "answer" or "verdict"; an object that breaks off says nothing;
// - the last line that begins with `Label:` (or Answer, Verdict), in any case and dress: `**Label:** helpful`,
//   `Label - helpful`, `Label: \boxed{helpful}`, `<label>helpful</label>`, full-width colons, curly quotes;
// - the last such marker within a line, or `the label is x`;
// - a last line that is nothing but a label.
// A label inside a longer word does not count ("helpful" in "unhelpful").
FoundLabel FindLabel(absl::string_view text, const Labels& labels);

}  // namespace sibyl::annotator
