#pragma once

#include <regex.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "annotator/judge.h"

namespace sibyl::annotator {

// A hand-written stand-in for a judge: a file of patterns and labels (its format is in annotator/README.md). Answers by
// the captions alone: CLASSIFY with the caption's label; COMPARE prefers the caption whose label stands later in the
// label set (on average, where labels have probabilities), a tie where they are the same, and abstains where it has no
// label for one of them.
class RulesJudge : public Judge {
 public:
  // Reads the file. `label_set` is the one that queries have, the worst label first; each label must be in it. `noise`,
  // for experiments: this share of captions gets another label of the set than the rules give; which ones, and which
  // label, follows from the caption, so that asking again does not help. InvalidArgument names file, line, text and
  // remedy; NotFound and Unavailable the file.
  static absl::StatusOr<std::unique_ptr<RulesJudge>> Load(const std::string& path,
                                                          const std::vector<std::string>& label_set, double noise = 0);

  std::string name() const override { return name_; }
  std::string prompt() const override { return ""; }
  std::string sampling() const override;
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
    int label = -1;                    // index into label_set_; -1: abstain
    float probability = 1;             // of that label; the others share the rest
    std::unique_ptr<Pattern> pattern;  // nullptr: fits every caption
  };

  RulesJudge() = default;
  // The rule that fits a caption; the last one fits all.
  const Rule& RuleFor(const std::string& caption) const;
  // Over label_set_; empty: abstain.
  std::vector<float> DistributionOf(const std::string& caption) const;

  std::string path_;
  std::string name_;
  std::vector<std::string> label_set_;
  double noise_ = 0;
  std::vector<Rule> rules_;  // the default is the last
};

}  // namespace sibyl::annotator
