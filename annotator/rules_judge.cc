#include "annotator/rules_judge.h"

#include <algorithm>
#include <filesystem>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "annotator/query_identity.h"
#include "annotator/utf8.h"
#include "common/caption.h"
#include "common/runtime/files.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

constexpr absl::string_view kDefault = "default";
constexpr absl::string_view kAbstain = "abstain";

// The place in the label set to expect.
double MeanLabel(const std::vector<float>& distribution) {
  double mean = 0;
  for (size_t i = 0; i < distribution.size(); ++i) mean += static_cast<double>(i) * distribution[i];
  return mean;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RulesJudge>> RulesJudge::Load(const std::string& path,
                                                             const std::vector<std::string>& label_set, double noise) {
  SIBYL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  std::unique_ptr<RulesJudge> judge(new RulesJudge());
  judge->path_ = path;
  judge->label_set_ = label_set;
  judge->noise_ = noise;
  judge->name_ =
      absl::StrCat("rules:", std::filesystem::path(path).filename().string(), "@", HexDigest(bytes).substr(0, 8));

  int line = 0;
  int default_line = 0;
  for (absl::string_view raw : absl::StrSplit(bytes, '\n')) {
    ++line;
    const absl::string_view text = absl::StripAsciiWhitespace(raw);
    if (text.empty() || text[0] == '#') continue;
    const auto invalid = [&](const auto&... parts) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": `", text, "` ", parts...));
    };
    if (default_line > 0) {
      return invalid("stands behind the default of line ", default_line,
                     " and would never be used; move it above that line");
    }
    const size_t colon = text.find(':');
    if (colon == absl::string_view::npos) {
      return invalid("is not a rule; a rule reads `label: pattern`, and the last line `default: label`");
    }
    const absl::string_view left = absl::StripAsciiWhitespace(text.substr(0, colon));
    const absl::string_view right = absl::StripAsciiWhitespace(text.substr(colon + 1));
    if (right.empty()) return invalid("has nothing behind its colon; write a pattern, or a label behind `default:`");
    Rule rule;
    rule.line = line;
    rule.text = std::string(text);
    absl::string_view label = left;
    if (left == kDefault) {
      label = right;
      default_line = line;
    } else {
      const size_t space = left.find_last_of(" \t");
      if (space != absl::string_view::npos && absl::c_find(label_set, left) == label_set.end() &&
          absl::SimpleAtof(left.substr(space + 1), &rule.probability)) {
        if (!(rule.probability >= 0 && rule.probability <= 1)) {
          return invalid("has `", left.substr(space + 1), "` behind its label, must be its probability, from 0 to 1");
        }
        label = absl::StripAsciiWhitespace(left.substr(0, space));
      }
      rule.pattern = std::make_unique<Pattern>();
      const int error = regcomp(&rule.pattern->regex, std::string(right).c_str(), REG_EXTENDED | REG_NOSUB);
      if (error != 0) {
        char message[256];
        regerror(error, &rule.pattern->regex, message, sizeof message);
        return invalid("has a pattern that cannot be used (", message,
                       "); patterns are POSIX extended regular expressions, as `grep -E` takes them");
      }
      rule.pattern->compiled = true;
    }
    if (label != kAbstain) {
      const auto it = std::find(label_set.begin(), label_set.end(), label);
      if (it == label_set.end()) {
        return invalid("gives `", label, "`, which is not in the label set [", absl::StrJoin(label_set, ", "),
                       "]; use one of these, or `abstain`");
      }
      rule.label = static_cast<int>(it - label_set.begin());
    }
    judge->rules_.push_back(std::move(rule));
  }
  if (default_line == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", line, ": the file ends without a default; end it with `default: ", label_set.front(),
                     "` or `default: abstain`, for captions that no pattern fits"));
  }
  return judge;
}

std::string RulesJudge::sampling() const { return noise_ > 0 ? absl::StrCat("noise=", noise_) : ""; }

absl::Status RulesJudge::Check(const v1::Query& query) const {
  if (query.kind() == v1::QUERY_KIND_COMPARE) return absl::OkStatus();
  const auto& labels = query.label_set();
  if (std::equal(labels.begin(), labels.end(), label_set_.begin(), label_set_.end())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("label_set is [", absl::StrJoin(labels, ", "), "], the rules of ",
                                                 path_, " give [", absl::StrJoin(label_set_, ", "),
                                                 "]; change the one or the other"));
}

const RulesJudge::Rule& RulesJudge::RuleFor(const std::string& caption) const {
  for (const Rule& rule : rules_) {
    if (rule.pattern == nullptr || regexec(&rule.pattern->regex, caption.c_str(), 0, nullptr, 0) == 0) return rule;
  }
  return rules_.back();
}

std::vector<float> RulesJudge::DistributionOf(const std::string& caption) const {
  const Rule& rule = RuleFor(caption);
  if (rule.label < 0) return {};
  const auto size = static_cast<int>(label_set_.size());
  int label = rule.label;
  Random random(CaptionId(caption));
  if (random.Uniform() < noise_) label = (label + 1 + static_cast<int>(random.Below(size - 1))) % size;
  std::vector<float> distribution(size, (1 - rule.probability) / (size - 1));
  distribution[label] = rule.probability;
  return distribution;
}

void RulesJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  Verdict verdict;
  std::vector<std::string> raw;
  for (const std::string& caption : query.captions()) {
    const Rule& rule = RuleFor(caption);
    raw.push_back(absl::StrCat(std::filesystem::path(path_).filename().string(), ":", rule.line, ": ", rule.text));
  }
  verdict.raw = ValidUtf8(absl::StrJoin(raw, "\n"));
  std::vector<float> distribution = DistributionOf(query.captions(0));
  if (query.kind() == v1::QUERY_KIND_COMPARE && !distribution.empty()) {
    const std::vector<float> other = DistributionOf(query.captions(1));
    const double first = MeanLabel(distribution), second = MeanLabel(other);
    distribution.assign(other.empty() ? 0 : 3, 0);  // of first, second, tie
    if (!other.empty()) distribution[first > second ? 0 : first < second ? 1 : 2] = 1;
  }
  verdict.outcome = distribution.empty() ? v1::OUTCOME_ABSTAINED : v1::OUTCOME_ANSWERED;
  verdict.distribution = std::move(distribution);
  done(std::move(verdict));
}

}  // namespace sibyl::annotator
