#include "annotator/judges/rules_judge.h"

#include <algorithm>
#include <filesystem>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/judges/query_key.h"
#include "common/caption.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

constexpr absl::string_view kDefault = "default";
constexpr absl::string_view kAbstain = "abstain";
constexpr absl::string_view kArrow = "=>";

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The query's texts in the order of the kind's texts.
std::vector<std::string> TextsOf(const v1::Query& query) {
  std::vector<std::string> texts;
  for (const TextField& field : FindQuestion(query.kind())->texts) {
    if (const auto it = query.texts().find(field.name); it != query.texts().end()) texts.push_back(it->second);
  }
  return texts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RulesJudge>> RulesJudge::Load(const std::string& path,
                                                             const std::vector<std::string>& labels, double noise) {
  SIBYL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  std::unique_ptr<RulesJudge> judge(new RulesJudge());
  judge->path_ = path;
  judge->labels_ = labels;
  judge->noise_ = noise;
  judge->name_ =
      absl::StrCat("rules:", std::filesystem::path(path).filename().string(), "@", HexDigest(bytes).substr(0, 8));
  SIBYL_RETURN_IF_ERROR(judge->Parse(bytes));
  return judge;
}

absl::Status RulesJudge::Parse(const std::string& bytes) {
  Rules* rules = &label_rules_;
  std::string section;  // empty: the file's head
  int line = 0;
  int default_line = 0;
  const auto check_end = [&]() -> absl::Status {
    if (default_line > 0 || (section.empty() && label_rules_.empty())) return absl::OkStatus();
    return Invalid(path_, ":", line, ": ",
                   section.empty() ? "the file's labels end" : absl::StrCat("the section [", section, "] ends"),
                   " without a default; end with `default",
                   section.empty() ? absl::StrCat(": ", labels_.front(), "` or `default: abstain`")
                                   : " => ANSWER` or `default => abstain`",
                   ", for texts that no pattern fits");
  };
  for (absl::string_view raw : absl::StrSplit(bytes, '\n')) {
    ++line;
    const absl::string_view text = absl::StripAsciiWhitespace(raw);
    if (text.empty() || text[0] == '#') continue;
    const auto in_line = [&](const absl::Status& status) {
      return Invalid(path_, ":", line, ": `", text, "` ", status.message());
    };
    if (text.front() == '[' && text.back() == ']' && FindQuestion(text.substr(1, text.size() - 2)) != nullptr) {
      SIBYL_RETURN_IF_ERROR(check_end());
      section = std::string(text.substr(1, text.size() - 2));
      rules = &sections_[section];
      default_line = 0;
      if (!rules->empty()) return in_line(Invalid("names a section for the second time; put its rules together"));
      continue;
    }
    if (default_line > 0) {
      return in_line(Invalid("stands behind the default of line ", default_line,
                             " and would never be used; move it above that line"));
    }
    Rule rule;
    rule.line = line;
    rule.text = std::string(text);
    absl::string_view pattern;
    if (section.empty()) {
      if (auto status = ParseLabelRule(text, &rule); !status.ok()) return in_line(status);
    } else {
      if (auto status = SplitSectionRule(text, &pattern, &rule); !status.ok()) return in_line(status);
      if (pattern != kDefault) {
        if (auto status = CompilePattern(pattern, &rule); !status.ok()) return in_line(status);
      }
    }
    if (rule.pattern == nullptr) default_line = line;
    rules->push_back(std::move(rule));
  }
  if (label_rules_.empty() && sections_.empty()) {
    return Invalid(path_, ":", line, ": the file has no rules; end it with `default: ", labels_.front(),
                   "` or `default: abstain`, for texts that no pattern fits");
  }
  return check_end();
}

absl::Status RulesJudge::CompilePattern(absl::string_view pattern, Rule* rule) const {
  rule->pattern = std::make_unique<Pattern>();
  const int error = regcomp(&rule->pattern->regex, std::string(pattern).c_str(), REG_EXTENDED | REG_NOSUB);
  if (error != 0) {
    char message[256];
    regerror(error, &rule->pattern->regex, message, sizeof message);
    return Invalid("has a pattern that cannot be used (", message,
                   "); patterns are POSIX extended regular expressions, as `grep -E` takes them");
  }
  rule->pattern->compiled = true;
  return absl::OkStatus();
}

absl::Status RulesJudge::ParseLabelRule(absl::string_view text, Rule* rule) const {
  const size_t colon = text.find(':');
  if (colon == absl::string_view::npos) {
    return Invalid("is not a rule; a rule reads `label: pattern`, and the last line `default: label`");
  }
  const absl::string_view left = absl::StripAsciiWhitespace(text.substr(0, colon));
  const absl::string_view right = absl::StripAsciiWhitespace(text.substr(colon + 1));
  if (right.empty()) return Invalid("has nothing behind its colon; write a pattern, or a label behind `default:`");
  absl::string_view label = left;
  if (left == kDefault) {
    label = right;
  } else {
    const size_t space = left.find_last_of(" \t");
    if (space != absl::string_view::npos && absl::c_find(labels_, left) == labels_.end() &&
        absl::SimpleAtof(left.substr(space + 1), &rule->probability)) {
      if (!(rule->probability >= 0 && rule->probability <= 1)) {
        return Invalid("has `", left.substr(space + 1), "` behind its label, must be its probability, from 0 to 1");
      }
      label = absl::StripAsciiWhitespace(left.substr(0, space));
    }
    SIBYL_RETURN_IF_ERROR(CompilePattern(right, rule));
  }
  if (label == kAbstain) return absl::OkStatus();
  const auto it = absl::c_find(labels_, label);
  if (it == labels_.end()) {
    return Invalid("gives `", label, "`, which is not in the label set [", absl::StrJoin(labels_, ", "),
                   "]; use one of these, or `abstain`");
  }
  rule->label = static_cast<int>(it - labels_.begin());
  return absl::OkStatus();
}

absl::Status RulesJudge::SplitSectionRule(absl::string_view text, absl::string_view* pattern, Rule* rule) {
  const size_t arrow = text.find(kArrow);
  if (arrow == absl::string_view::npos) {
    return Invalid("is not a rule; a section's rule reads `pattern => answer`, and its last line `default => answer`");
  }
  *pattern = absl::StripAsciiWhitespace(text.substr(0, arrow));
  rule->answer = ValidUtf8(absl::StripAsciiWhitespace(text.substr(arrow + kArrow.size())));
  if (pattern->empty() || rule->answer.empty()) {
    return Invalid("lacks its pattern or its answer; write `pattern => answer`");
  }
  return absl::OkStatus();
}

std::string RulesJudge::sampling() const { return noise_ > 0 ? absl::StrCat("noise=", noise_) : ""; }

absl::Status RulesJudge::Check(const v1::Query& query) const {
  std::string raw;
  return ReadingOf(query, &raw).status();
}

const RulesJudge::Rule& RulesJudge::RuleFor(const Rules& rules, const std::string& text) {
  for (const Rule& rule : rules) {
    if (rule.pattern == nullptr || regexec(&rule.pattern->regex, text.c_str(), 0, nullptr, 0) == 0) return rule;
  }
  return rules.back();
}

std::vector<float> RulesJudge::LabelsOf(const std::string& text) const {
  const Rule& rule = RuleFor(label_rules_, text);
  if (rule.label < 0) return {};
  const auto size = static_cast<int>(labels_.size());
  int label = rule.label;
  Random random(CaptionId(text));
  if (random.Uniform() < noise_) label = (label + 1 + static_cast<int>(random.Below(size - 1))) % size;
  std::vector<float> distribution(size, (1 - rule.probability) / (size - 1));
  distribution[label] = rule.probability;
  return distribution;
}

absl::StatusOr<Reading> RulesJudge::ReadingOf(const v1::Query& query, std::string* raw) const {
  const Question& question = *FindQuestion(query.kind());
  const std::string file = std::filesystem::path(path_).filename().string();
  if (const auto section = sections_.find(query.kind()); section != sections_.end()) {
    const Rule& rule = RuleFor(section->second, absl::StrJoin(TextsOf(query), "\n"));
    *raw = absl::StrCat(file, ":", rule.line, ": ", rule.text);
    return question.read(query, Reply{.text = rule.answer});
  }
  if (question.by_labels == nullptr || label_rules_.empty()) {
    return Invalid("kind is `", query.kind(), "`, for which the rules of ", path_,
                   " have no answers; give the file a section [", query.kind(), "]");
  }
  std::vector<std::string> rules;
  for (const TextField& field : question.texts) {
    const auto it = query.texts().find(field.name);
    if (!field.required || it == query.texts().end()) continue;
    const Rule& rule = RuleFor(label_rules_, it->second);
    rules.push_back(absl::StrCat(file, ":", rule.line, ": ", rule.text));
  }
  *raw = ValidUtf8(absl::StrJoin(rules, "\n"));
  return question.by_labels(query, *this);
}

void RulesJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  Verdict verdict;
  const absl::StatusOr<Reading> reading = ReadingOf(query, &verdict.raw);  // OK: it passed Check
  verdict.outcome = reading.ok() ? reading->outcome : v1::OUTCOME_FAILED;
  if (reading.ok()) verdict.answer = reading->answer;
  done(std::move(verdict));
}

}  // namespace sibyl::annotator
