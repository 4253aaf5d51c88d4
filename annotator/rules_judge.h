#pragma once

#include <regex.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "annotator/judge.h"

namespace sibyl::annotator {

// A hand-written stand-in for a judge: a file of patterns and labels (its format is in annotator/README.md). Answers
// CLASSIFY queries by their caption alone, at once.
class RulesJudge : public Judge {
 public:
  // Reads the file. Each label must be in `label_set`. InvalidArgument names file, line, text and remedy; NotFound and
  // Unavailable the file.
  static absl::StatusOr<std::unique_ptr<RulesJudge>> Load(const std::string& path,
                                                          const std::vector<std::string>& label_set);

  std::string name() const override { return name_; }
  std::string prompt() const override { return ""; }
  std::string sampling() const override { return ""; }
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
    std::string label;                 // "": abstain
    std::unique_ptr<Pattern> pattern;  // nullptr: fits every caption
  };

  RulesJudge() = default;

  std::string path_;
  std::string name_;
  std::vector<Rule> rules_;  // the default is the last
};

}  // namespace sibyl::annotator
