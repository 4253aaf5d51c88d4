#include "annotator/questions/choice.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "annotator/questions/json_text.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kNowhere = std::string::npos;
// Probability of all labels together below which a model's first word is no verdict.
constexpr double kLeastMass = 0.1;
constexpr absl::string_view kAbstain = "abstain";
constexpr absl::string_view kMarkers[] = {"label", "answer", "verdict"};

bool StartsAt(absl::string_view text, size_t at, absl::string_view part) {
  return at <= text.size() && absl::StartsWith(text.substr(at), part);
}

// Bytes of the quote, bracket or blank outside ASCII that begins at `at`; 0: there is none.
size_t WideDress(absl::string_view text, size_t at) {
  for (const absl::string_view mark :
       {"\u2018", "\u2019", "\u201a", "\u201c", "\u201d", "\u201e", "\u2039", "\u203a", "\u00ab",
        "\u00bb", "\u300a", "\u300b", "\u300c", "\u300d", "\u300e", "\u300f", "\u3010", "\u3011",
        "\uff08", "\uff09", "\uff02", "\u00a0", "\u2009", "\u202f", "\u3000"}) {
    if (StartsAt(text, at, mark)) return mark.size();
  }
  return 0;
}

// Bytes of the punctuation outside ASCII that begins at `at`; 0: there is none.
size_t WidePunctuation(absl::string_view text, size_t at) {
  if (const size_t dress = WideDress(text, at); dress > 0) return dress;
  for (const absl::string_view mark : {"\uff1a", "\uff1d", "\uff0c", "\uff0e", "\uff01", "\uff1f", "\uff1b", "\u3001",
                                       "\u3002", "\u2013", "\u2014", "\u2026", "\u2192", "\u21d2"}) {
    if (StartsAt(text, at, mark)) return mark.size();
  }
  return 0;
}

// Whether a letter or digit begins at `at`.
bool IsWordAt(absl::string_view text, size_t at) {
  if (at >= text.size()) return false;
  const auto c = static_cast<unsigned char>(text[at]);
  return c < 0x80 ? absl::ascii_isalnum(c) || c == '_' : WidePunctuation(text, at) == 0;
}

// Whether a letter or digit ends right before `at`.
bool IsWordBefore(absl::string_view text, size_t at) {
  if (at == 0) return false;
  size_t begin = at - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return IsWordAt(text, begin);
}

// Whether the word before `at` goes on: a hyphen or apostrophe between letters joins them ("helpful-ish").
bool GoesOnAt(absl::string_view text, size_t at) {
  if (IsWordAt(text, at)) return true;
  for (const absl::string_view joint : {"-", "'", "\u2019"}) {
    if (StartsAt(text, at, joint) && IsWordAt(text, at + joint.size())) return true;
  }
  return false;
}

// Whether `word` stands at `at` and ends there.
bool WordAt(absl::string_view text, size_t at, absl::string_view word) {
  return at <= text.size() && absl::StartsWithIgnoreCase(text.substr(at), word) && !GoesOnAt(text, at + word.size());
}

// Past blanks, line breaks, quotes, brackets, Markdown and LaTeX commands (`\boxed{`).
size_t SkipDress(absl::string_view text, size_t at) {
  while (at < text.size()) {
    if (absl::StrContains(" \t\r\n*_\"'`#>([{$", text.substr(at, 1))) {
      ++at;
    } else if (const size_t wide = WideDress(text, at); wide > 0) {
      at += wide;
    } else if (text[at] == '\\') {
      size_t end = at + 1;
      while (end < text.size() && absl::ascii_isalpha(static_cast<unsigned char>(text[end]))) ++end;
      if (end >= text.size() || !absl::StrContains("{([", text.substr(end, 1))) return at;
      at = end + 1;
    } else {
      return at;
    }
  }
  return at;
}

// The label that stands at `at`; the longest one where one begins with another. Two of them, as in "helpful/unhelpful"
// or "helpful or unhelpful", are none.
FoundLabel LabelAt(absl::string_view text, size_t at, const Labels& labels) {
  FoundLabel found;
  size_t longest = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i].size() > longest && WordAt(text, at, labels[i])) {
      found = {FoundLabel::kLabel, static_cast<int>(i), at};
      longest = labels[i].size();
    }
  }
  const size_t next = SkipDress(text, at + longest);
  if (longest > 0 && next < text.size()) {
    size_t other = kNowhere;
    if (absl::StrContains("/|,", text.substr(next, 1))) other = SkipDress(text, next + 1);
    if (WordAt(text, next, "or")) other = SkipDress(text, next + 2);
    for (const std::string& label : labels) {
      if (other != kNowhere && WordAt(text, other, label)) return {};
    }
  }
  if (longest == 0 && (WordAt(text, at, kAbstain) || WordAt(text, at, "abstained")))
    found.kind = FoundLabel::kAbstained;
  return found;
}

// Bytes of what may separate a marker from its label; 0: there is none.
size_t SeparatorAt(absl::string_view text, size_t at) {
  for (const absl::string_view mark :
       {":", "=>", "->", "=", "\uff1a", "\uff1d", "\u2013", "\u2014", "\u2192", "\u21d2"}) {
    if (StartsAt(text, at, mark)) return mark.size();
  }
  const bool dash =
      StartsAt(text, at, "-") && at + 1 < text.size() && absl::ascii_isspace(static_cast<unsigned char>(text[at + 1]));
  return dash ? 1 : 0;
}

struct Marked {
  size_t label = kNowhere;  // where the label would begin; kNowhere: no marker stands here
  // The marker announces a label and nothing else: `Label: `, not `the label is `.
  bool firm = false;
};

// A marker at `at` and what separates it from its label.
Marked MarkerAt(absl::string_view text, size_t at) {
  if (absl::StartsWith(text.substr(at), "\\boxed{")) return {SkipDress(text, at), false};
  for (const absl::string_view marker : kMarkers) {
    if (!absl::StartsWithIgnoreCase(text.substr(at), marker) || IsWordBefore(text, at)) continue;
    const size_t end = at + marker.size();
    if (at > 0 && text[at - 1] == '<' && StartsAt(text, end, ">")) return {SkipDress(text, end + 1), true};
    size_t next = SkipDress(text, end);
    if (const size_t separator = SeparatorAt(text, next); separator > 0) {
      return {SkipDress(text, next + separator), true};
    }
    if (WordAt(text, next, "is")) {
      next = SkipDress(text, next + 2);
      const size_t separator = SeparatorAt(text, next);
      return {SkipDress(text, next + separator), separator > 0};
    }
  }
  return {};
}

// Whether nothing but dress, a number and words like "final" stands before `at` on its line.
bool BeginsLine(absl::string_view text, size_t at) {
  const size_t before = text.substr(0, at).rfind('\n');
  const size_t begin = before == kNowhere ? 0 : before + 1;
  std::string words;
  for (size_t i = begin; i < at; ++i) {
    if (absl::ascii_isalpha(static_cast<unsigned char>(text[i]))) {
      words.push_back(absl::ascii_tolower(static_cast<unsigned char>(text[i])));
    } else if (const auto c = static_cast<unsigned char>(text[i]); c >= 0x80) {
      const size_t wide = WideDress(text, i);
      if (wide == 0) return false;
      i += wide - 1;
    } else if (!words.empty() && words.back() != ' ') {
      words.push_back(' ');
    }
  }
  const absl::string_view lead = absl::StripTrailingAsciiWhitespace(words);
  for (const absl::string_view allowed : {"", "final", "the", "my", "the final", "my final"}) {
    if (lead == allowed) return true;
  }
  return false;
}

// The label behind the last marker in [begin, end). The last firm marker counts even if it says nothing; one that is
// not firm counts only with a label ("the answer is because" is no marker).
std::optional<FoundLabel> LastMarked(absl::string_view text, size_t begin, size_t end, const Labels& labels) {
  for (size_t at = end; at-- > begin;) {
    const Marked marked = MarkerAt(text, at);
    if (marked.label == kNowhere || marked.label >= text.size()) continue;
    const FoundLabel found = LabelAt(text, marked.label, labels);
    if (marked.firm || found.kind != FoundLabel::kUnparsable) return found;
  }
  return std::nullopt;
}

FoundLabel InLastLine(absl::string_view text, const Labels& labels) {
  size_t end = text.size();
  while (end > 0 && absl::ascii_isspace(static_cast<unsigned char>(text[end - 1]))) --end;
  const size_t before = end == 0 ? kNowhere : text.rfind('\n', end - 1);
  const size_t start = SkipDress(text, before == kNowhere ? 0 : before + 1);
  if (start >= end) return {};
  const FoundLabel found = LabelAt(text, start, labels);
  if (found.kind == FoundLabel::kUnparsable) return {};
  size_t after = start + (found.kind == FoundLabel::kLabel   ? labels[found.label].size()
                          : WordAt(text, start, "abstained") ? absl::string_view("abstained").size()
                                                             : kAbstain.size());
  while (after < end) {
    const size_t wide = WidePunctuation(text, after);
    if (wide == 0 && !absl::StrContains(" \t*_\"'`.!)]}$\\", text.substr(after, 1))) return {};
    after += std::max<size_t>(wide, 1);
  }
  return found;
}

// Where the value of `name` begins in the text of a JSON object, when the label `label` stands there.
size_t OffsetInJson(absl::string_view text, const std::string& name, int label, const Labels& labels) {
  const std::string key = absl::StrCat("\"", name, "\"");
  for (size_t at = text.rfind(key); at != kNowhere; at = at == 0 ? kNowhere : text.rfind(key, at - 1)) {
    const size_t colon = text.find_first_not_of(" \t\r\n", at + key.size());
    if (colon == kNowhere || text[colon] != ':') continue;
    const FoundLabel found = LabelAt(text, SkipDress(text, colon + 1), labels);
    if (found.kind == FoundLabel::kLabel && found.label == label) return found.offset;
  }
  return kNowhere;
}

FoundLabel InJson(absl::string_view text, const Json& object, const Labels& labels) {
  for (const absl::string_view marker : kMarkers) {
    for (const auto& [name, value] : object.items()) {
      if (!absl::EqualsIgnoreCase(name, marker) || !value.is_string()) continue;
      FoundLabel found = InLastLine(value.get<std::string>(), labels);
      found.offset = found.kind == FoundLabel::kLabel ? OffsetInJson(text, name, found.label, labels) : kNowhere;
      return found;
    }
  }
  return {};
}

// Where one string begins with the other.
bool Agree(absl::string_view a, absl::string_view b) {
  return absl::StartsWithIgnoreCase(a, b) || absl::StartsWithIgnoreCase(b, a);
}

// Probability of each label at `offset` in the answer. Follows the answer's tokens until they tell the labels apart.
// Empty when the tokens do not show it.
std::vector<double> LabelMasses(const std::vector<Token>& tokens, const Labels& labels, size_t offset) {
  size_t at = 0;  // of the token in the text
  size_t i = 0;
  while (i < tokens.size() && at + tokens[i].text.size() <= offset) at += tokens[i++].text.size();
  if (i == tokens.size() || at > offset) return {};
  // What stands before the label in its first token (a blank, a quote), which an alternative must share or do without.
  const std::string lead = tokens[i].text.substr(0, offset - at);
  std::vector<double> masses(labels.size(), 0);
  double reached = 1;  // probability of the tokens of the label so far
  std::string prefix;
  for (bool first = true; i < tokens.size(); ++i, first = false) {
    const Token& token = tokens[i];
    const auto continued = [&](absl::string_view text) {
      if (first) {
        absl::ConsumePrefix(&text, lead);
        text = absl::StripLeadingAsciiWhitespace(text);
      }
      return prefix + std::string(text);
    };
    // The labels that a text may be becoming.
    const auto candidates = [&](const std::string& text) {
      std::vector<int> result;
      if (text.empty()) return result;
      for (size_t k = 0; k < labels.size(); ++k) {
        if (Agree(labels[k], text)) result.push_back(static_cast<int>(k));
      }
      return result;
    };
    const std::string own = continued(token.text);
    const std::vector<int> own_candidates = candidates(own);
    bool own_listed = false;
    for (const auto& [text, logprob] : token.top) {
      if (text == token.text) own_listed = true;
      const std::vector<int> fits = candidates(continued(text));
      if (fits.size() == 1) masses[fits[0]] += reached * std::exp(logprob);
    }
    if (!own_listed && own_candidates.size() == 1) masses[own_candidates[0]] += reached * std::exp(token.logprob);
    if (own_candidates.size() <= 1) return masses;
    // Several labels begin like this: the next token tells.
    reached *= std::exp(token.logprob);
    prefix = own;
  }
  return {};
}

// The labels' shares of what they have together.
Reading Shares(const std::vector<double>& masses) {
  const double sum = std::accumulate(masses.begin(), masses.end(), 0.0);
  std::vector<float> distribution;
  for (const double mass : masses) distribution.push_back(static_cast<float>(mass / sum));
  return Chosen(std::move(distribution), static_cast<float>(std::clamp(1 - sum, 0.0, 1.0)));
}

}  // namespace

absl::Status CheckLabels(const v1::Grammar& grammar) {
  const auto invalid = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("grammar.choice.labels ", parts...));
  };
  const auto& labels = grammar.choice().labels();
  if (labels.size() < 2) return invalid("is [", absl::StrJoin(labels, ", "), "], must have at least 2 labels");
  for (int i = 0; i < labels.size(); ++i) {
    if (labels[i].empty() || labels[i].size() > 100) {
      return invalid("has a label of ", labels[i].size(), " bytes, must have 1 to 100");
    }
    for (unsigned char c : labels[i]) {
      if (c < ' ' || c == 0x7f) return invalid("has a control character in `", absl::CEscape(labels[i]), "`");
    }
    if (absl::EqualsIgnoreCase(labels[i], kAbstain)) {
      return invalid("has `abstain`, by which a judge declines; name the label otherwise");
    }
    for (int j = 0; j < i; ++j) {
      if (labels[i] == labels[j]) return invalid("has `", labels[i], "` twice");
    }
  }
  return absl::OkStatus();
}

AnswerForm ChoiceForm(const Labels& labels) {
  AnswerForm form;
  form.choices = labels;
  form.choices.push_back(std::string(kAbstain));
  const Json text = {{"type", "string"}};
  const Json schema = {
      {"type", "object"},
      {"properties",
       {{"knowledge", text}, {"analysis", text}, {"label", {{"type", "string"}, {"enum", form.choices}}}}},
      {"required", {"knowledge", "analysis", "label"}},
      {"additionalProperties", false}};
  form.json_schema = schema.dump();
  return form;
}

AnswerForm BareChoiceForm(const Labels& labels) {
  const Json schema = {{"type", "object"},
                       {"properties", {{"label", {{"type", "string"}, {"enum", labels}}}}},
                       {"required", {"label"}},
                       {"additionalProperties", false}};
  return {.json_schema = schema.dump(), .choices = labels};
}

Reading Chosen(std::vector<float> distribution, float outside) {
  Reading reading;
  reading.outcome = distribution.empty() ? v1::OUTCOME_ABSTAINED : v1::OUTCOME_ANSWERED;
  if (distribution.empty()) return reading;
  v1::Answer::Choice& choice = *reading.answer.mutable_choice();
  choice.mutable_distribution()->Assign(distribution.begin(), distribution.end());
  choice.set_outside(outside);
  return reading;
}

FoundLabel FindLabel(absl::string_view text, const Labels& labels) {
  const absl::string_view body = WithoutFence(text);
  if (absl::StartsWith(body, "{")) {
    const Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) return InJson(text, json, labels);
    if (!absl::EndsWith(body, "}")) return {};  // an object that breaks off; its texts may name any label
  }
  // The answer proper is a line that begins with a marker; the last one counts, and remarks behind it do not.
  for (size_t at = text.size(); at-- > 0;) {
    const Marked marked = MarkerAt(text, at);
    if (!marked.firm || marked.label >= text.size() || !BeginsLine(text, at)) continue;
    return *LastMarked(text, at, std::min(text.find('\n', at), text.size()), labels);
  }
  if (const auto found = LastMarked(text, 0, text.size(), labels); found.has_value()) return *found;
  return InLastLine(text, labels);
}

Reading ReadChoice(const Labels& labels, const Reply& reply) {
  if (reply.cut) return {};
  const FoundLabel found = FindLabel(reply.text, labels);
  if (found.kind == FoundLabel::kAbstained) return Chosen({});
  if (found.kind == FoundLabel::kUnparsable) return {};
  std::vector<float> distribution(labels.size(), 0);
  std::vector<double> masses;
  if (found.offset != kNowhere) masses = LabelMasses(reply.tokens, labels, found.offset);
  if (masses.empty() || masses[found.label] == 0) {
    distribution[found.label] = 1;
    return Chosen(std::move(distribution));
  }
  return Shares(masses);
}

Reading ReadDirect(const Labels& labels, const Reply& reply) {
  const size_t first = reply.text.find_first_not_of(" \t\r\n");
  if (!reply.tokens.empty() && first != kNowhere) {
    const std::vector<double> masses = LabelMasses(reply.tokens, labels, first);
    if (std::accumulate(masses.begin(), masses.end(), 0.0) >= kLeastMass) return Shares(masses);
    if (!masses.empty()) return {};
  }
  Reply line;
  if (first != kNowhere) line.text = reply.text.substr(first, reply.text.find('\n', first) - first);
  return ReadChoice(labels, line);
}

}  // namespace sibyl::annotator
