#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sibyl::annotator {

// A caption under a goal, and whether a person, or a file of rules, calls it good.
struct GoldItem {
  std::string goal;
  std::string caption;
  enum { kBad, kGood, kUnknown } is = kUnknown;
};

// A gold file: "goal: ..." begins a group, "LABEL: caption" is a line of it, `bad` and `good` are the labels. Lines
// that begin with # and empty lines are left out. Errors name file and line.
absl::StatusOr<std::vector<GoldItem>> ReadGold(const std::string& path, const std::string& bad,
                                               const std::string& good);

// Captions as `sibyl captions` prints them, a line of JSON each, under one goal; nothing is known of them.
absl::StatusOr<std::vector<GoldItem>> ReadCaptions(const std::string& path, const std::string& goal);

}  // namespace sibyl::annotator
