#include "common/nearest.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sibyl {
namespace {

constexpr size_t kShown = 3;
// A fitting last part under another path counts as this many edits.
constexpr size_t kOtherPath = 2;

absl::string_view LastPart(absl::string_view name) { return name.substr(name.find_last_of("./") + 1); }

// Least number of insertions, deletions, replacements and swaps of neighbours that make `a` of `b` (optimal string
// alignment).
size_t Edits(absl::string_view a, absl::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    std::swap(before, last);
    std::swap(last, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

size_t Distance(const std::string& name, const std::string& candidate) {
  return std::min(Edits(name, candidate), kOtherPath + Edits(LastPart(name), LastPart(candidate)));
}

}  // namespace

std::string DidYouMean(absl::string_view name, absl::Span<const std::string> candidates) {
  // A longer name than any real one would only cost time.
  if (name.empty() || name.size() > 200) return "";
  const std::string lower = absl::AsciiStrToLower(name);
  std::vector<std::pair<size_t, const std::string*>> near;
  for (const std::string& candidate : candidates) {
    const size_t distance = Distance(lower, absl::AsciiStrToLower(candidate));
    if (distance <= std::max<size_t>(2, LastPart(name).size() / 3)) near.emplace_back(distance, &candidate);
  }
  if (near.empty()) return "";
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<absl::string_view> shown;
  for (const auto& [distance, candidate] : near) {
    if (shown.size() < kShown && distance <= near[0].first + 1) shown.push_back(*candidate);
  }
  return absl::StrCat("; did you mean ", absl::StrJoin(shown, " or "), "?");
}

}  // namespace sibyl
