#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "annotator/quality/agreement.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// How good the labels of a log are. Entries are added in the log's order.
class LabelStats {
 public:
  void Add(const v1::Label& label);
  // What is known to be right: the label of a caption, under one goal or, where that is empty, under any.
  void AddGold(const std::string& caption, const std::string& label, const std::string& goal = "") {
    gold_[{goal, caption}] = label;
  }

  // A line a figure: for each judge and prompt how the queries ended, whether the judge agrees with itself (queries
  // that were answered twice, also before the server's model changed; votes; comparisons in both orders), with the
  // persons who overrode it, with gold, and with other judges; then what was spent.
  std::string Text(const v1::SpendingResponse& spending) const;

 private:
  struct Query {
    v1::Label last;
    std::string answered;  // the label of the judge's last answer; empty: none
    double good = 0;       // the probability of the last label in that answer
  };
  struct Judged {
    std::map<int64_t, Query> queries;
    Agreement with_itself, with_persons;
    uint64_t votes = 0, agreeing_votes = 0;
    double cost = 0;
  };
  std::map<std::string, Judged> judges_;                             // by judge and prompt
  std::map<std::pair<std::string, std::string>, std::string> gold_;  // by goal and caption
};

}  // namespace sibyl::annotator
