#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "annotator/quality/gold.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// How far labels can be trusted, as metrics of what was answered since the start: whether answers that ask the same
// agree, and how answers stand to a gold file. `sibyl labels stats` has the same of the whole log. Any thread.
class Quality {
 public:
  // `gold`: captions whose label is known.
  Quality(const std::vector<GoldItem>& gold, Metrics& metrics);
  ~Quality();

  bool has_gold() const { return !gold_.empty(); }

  // A label was written. `served`: what the server says of itself (Judge::Report).
  void OnLabel(const v1::Label& label, const std::string& served);
  // A query was answered before the start.
  void OnKnown(const v1::Query& query, const v1::Answer& answer);

 private:
  struct Gauges;
  struct Answered {
    std::string label;
    uint64_t served = 0;  // a hash
  };

  struct GoldAnswer {
    double probability = 0;  // of the good label
    bool is_good = false;    // the good label is the likeliest
  };

  // Answers that are remembered for comparison, the newest.
  static constexpr size_t kMostAnswers = 100'000;

  void Compare(const char* with, bool agrees);
  void HoldAgainstGold(const v1::Query& query, const v1::Answer& answer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::map<std::pair<std::string, std::string>, bool> gold_;  // goal and caption: whether it is good
  const std::unique_ptr<Gauges> gauges_;
  Mutex mutex_;
  absl::flat_hash_map<uint64_t, Answered> answers_ ABSL_GUARDED_BY(mutex_);  // by question
  std::deque<uint64_t> order_ ABSL_GUARDED_BY(mutex_);                       // of answers_, the oldest first
  // The newest answer about each gold caption that has one.
  std::map<std::pair<std::string, std::string>, GoldAnswer> gold_answers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::annotator
