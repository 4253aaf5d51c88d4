#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Whether two readings of the same questions agree.
class Agreement {
 public:
  void Add(const std::string& first, const std::string& second);
  uint64_t pairs() const { return pairs_; }
  uint64_t same() const { return same_; }
  // Cohen's kappa: agreement beyond what the frequencies of the labels alone would give. 0 where it is not defined.
  double Kappa() const;

 private:
  uint64_t pairs_ = 0, same_ = 0;
  std::map<std::string, std::pair<uint64_t, uint64_t>> counts_;  // of each label, as first and as second
};

// 95 % interval of a share (Wilson 1927).
std::pair<double, double> ShareInterval(uint64_t count, uint64_t of);

// Probability that a good one scores higher than a bad one, ties counting half; -1 where one kind is missing.
double AreaUnderCurve(std::vector<double> good, std::vector<double> bad);

// How good the labels of a log are. Entries are added in the log's order.
class LabelStats {
 public:
  void Add(const v1::Label& label);
  // What is known to be right: the label of a caption.
  void AddGold(const std::string& caption, const std::string& label) { gold_[caption] = label; }

  // A line a figure: for each judge and prompt how the queries ended, whether the judge agrees with itself (queries
  // that were answered twice, comparisons in both orders), with the persons who overrode it, with gold, and with other
  // judges; then what was spent.
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
    double cost = 0;
  };
  std::map<std::string, Judged> judges_;  // by judge and prompt
  std::map<std::string, std::string> gold_;
};

}  // namespace sibyl::annotator
