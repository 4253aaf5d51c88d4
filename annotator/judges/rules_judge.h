#pragma once

#include <regex.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "annotator/judges/judge.h"
#include "annotator/questions/question.h"

namespace sibyl::annotator {

// A hand-written stand-in for a judge: a file of patterns and answers (its format is in annotator/README.md). A section
// of the file, named after a kind, holds answers to that kind word for word, which the kind reads as it reads any
// judge's. Kinds without a section are answered from the labels at the file's head, where the kind knows how
// (Question::by_labels).
class RulesJudge : public Judge, private LabelRules {
 public:
  // Reads the file. `labels` are the ones that the file's head may give, the worst first. `noise`, for experiments:
  // this share of texts gets another of the labels than the rules give; which texts, and which label, follows from the
  // text, so that asking again does not help. InvalidArgument names file, line, text and remedy; NotFound and
  // Unavailable the file.
  static absl::StatusOr<std::unique_ptr<RulesJudge>> Load(const std::string& path,
                                                          const std::vector<std::string>& labels, double noise = 0);

  std::string name() const override { return name_; }
  std::string prompt() const override { return ""; }
  std::string sampling() const override;
  std::string Rendered(const v1::Query&) const override { return ""; }
  absl::Status Check(const v1::Query& query) const override;
  int capacity() const override { return 256; }
  void Answer(const v1::Query& query, std::function<void(Verdict)> done) override;

 private:
  struct Pattern {
    Pattern() = default;
    Pattern(const Pattern&) = delete;
    ~Pattern() {
      if (compiled) regfree(&regex);
    }
    regex_t regex;
    bool compiled = false;
  };
  struct Rule {
    int line = 0;
    std::string text;                  // the line as it stands in the file
    int label = -1;                    // at the file's head: index into labels_; -1: abstain
    float probability = 1;             // of that label; the others share the rest
    std::string answer;                // in a section: the answer
    std::unique_ptr<Pattern> pattern;  // nullptr: fits every text
  };
  using Rules = std::vector<Rule>;  // the default is the last

  RulesJudge() = default;
  absl::Status Parse(const std::string& bytes);
  absl::Status CompilePattern(absl::string_view pattern, Rule* rule) const;
  // A rule of the file's head, `label: pattern`, and one of a section, `pattern => answer`. Errors begin with what is
  // wrong about the line.
  absl::Status ParseLabelRule(absl::string_view text, Rule* rule) const;
  static absl::Status SplitSectionRule(absl::string_view text, absl::string_view* pattern, Rule* rule);
  // The first rule that fits a text.
  static const Rule& RuleFor(const Rules& rules, const std::string& text);
  // What the file says to a query, and the rules that said so.
  absl::StatusOr<Reading> ReadingOf(const v1::Query& query, std::string* raw) const;

  const std::string& path() const override { return path_; }
  const std::vector<std::string>& labels() const override { return labels_; }
  std::vector<float> LabelsOf(const std::string& text) const override;

  std::string path_;
  std::string name_;
  std::vector<std::string> labels_;
  double noise_ = 0;
  Rules label_rules_;                      // the file's head; empty: it has none
  std::map<std::string, Rules> sections_;  // by kind
};

}  // namespace sibyl::annotator
