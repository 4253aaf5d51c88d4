#include "annotator/answer_parser.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace sibyl::annotator {
namespace {

bool IsWord(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}
// A hyphen or apostrophe between letters joins them: "helpful-ish" is not "helpful".
bool JoinsAt(absl::string_view text, size_t at) {
  return at < text.size() &&
         (IsWord(text[at]) || ((text[at] == '-' || text[at] == '\'') && at + 1 < text.size() && IsWord(text[at + 1])));
}

// Whether `word` stands at `at` and ends there.
bool WordAt(absl::string_view text, size_t at, absl::string_view word) {
  return absl::StartsWithIgnoreCase(text.substr(at), word) && !JoinsAt(text, at + word.size());
}

size_t SkipDress(absl::string_view text, size_t at) {
  while (at < text.size() && absl::StrContains(" \t\r\n*_\"'`#>([{", text.substr(at, 1))) ++at;
  return at;
}

// The label that stands at `at`; the longest one where one begins with another. Two of them, as in "helpful/unhelpful"
// or "helpful or unhelpful", are none.
ParsedAnswer LabelAt(absl::string_view text, size_t at, const std::vector<std::string>& label_set) {
  ParsedAnswer answer;
  size_t longest = 0;
  for (size_t i = 0; i < label_set.size(); ++i) {
    if (label_set[i].size() > longest && WordAt(text, at, label_set[i])) {
      answer = {ParsedAnswer::kLabel, static_cast<int>(i), at};
      longest = label_set[i].size();
    }
  }
  size_t next = SkipDress(text, at + longest);
  if (longest > 0 && next < text.size()) {
    size_t other = std::string::npos;
    if (absl::StrContains("/|,", text.substr(next, 1))) other = SkipDress(text, next + 1);
    if (WordAt(text, next, "or")) other = SkipDress(text, next + 2);
    for (const std::string& label : label_set) {
      if (other != std::string::npos && WordAt(text, other, label)) return {};
    }
  }
  if (longest == 0 && (WordAt(text, at, "abstain") || WordAt(text, at, "abstained"))) {
    answer.kind = ParsedAnswer::kAbstained;
  }
  return answer;
}

// A marker and what separates it from the label: `label": "`, `**Label:** `, `the label is `.
// Gives where the label would begin, or npos.
size_t AfterMarker(absl::string_view text, size_t at, absl::string_view marker) {
  if (!absl::StartsWithIgnoreCase(text.substr(at), marker) || (at > 0 && IsWord(text[at - 1]))) {
    return absl::string_view::npos;
  }
  size_t next = SkipDress(text, at + marker.size());
  if (next < text.size() && (text[next] == ':' || text[next] == '=')) return SkipDress(text, next + 1);
  if (WordAt(text, next, "is")) {
    next = SkipDress(text, next + 2);
    return next < text.size() && text[next] == ':' ? SkipDress(text, next + 1) : next;
  }
  return absl::string_view::npos;
}

}  // namespace

ParsedAnswer ParseAnswer(absl::string_view text, const std::vector<std::string>& label_set) {
  size_t begin = 0;
  if (const size_t end = text.rfind("</think>"); end != absl::string_view::npos) begin = end + 8;
  if (text.find("<think>", begin) != absl::string_view::npos) return {};  // cut off while thinking

  for (size_t at = text.size(); at-- > begin;) {
    for (const absl::string_view marker : {"label", "answer", "verdict"}) {
      const size_t next = AfterMarker(text, at, marker);
      if (next == absl::string_view::npos || next >= text.size()) continue;
      const ParsedAnswer answer = LabelAt(text, next, label_set);
      // The last marker counts, even if it says nothing; but "the answer is because" is no marker.
      const bool firm = text.find_first_of(":=", at) < next;
      if (!firm && answer.kind == ParsedAnswer::kUnparsable) continue;
      return answer;
    }
  }

  size_t end = text.size();
  while (end > begin && (absl::ascii_isspace(static_cast<unsigned char>(text[end - 1])))) --end;
  size_t start = text.rfind('\n', end == 0 ? 0 : end - 1);
  start = start == absl::string_view::npos || start < begin ? begin : start + 1;
  start = SkipDress(text, start);
  if (start >= end) return {};
  ParsedAnswer answer = LabelAt(text, start, label_set);
  if (answer.kind == ParsedAnswer::kUnparsable) return answer;
  size_t after = start + (answer.kind == ParsedAnswer::kLabel ? label_set[answer.label].size() : 7);
  if (answer.kind == ParsedAnswer::kAbstained && WordAt(text, start, "abstained")) after += 2;
  while (after < end && absl::StrContains(" \t*_\"'`.!)]}", text.substr(after, 1))) ++after;
  return after == end ? answer : ParsedAnswer{};
}

}  // namespace sibyl::annotator
