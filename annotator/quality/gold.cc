#include "annotator/quality/gold.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl::annotator {

absl::StatusOr<std::vector<GoldItem>> ReadGold(const std::string& path, const std::string& bad,
                                               const std::string& good) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<GoldItem> items;
  std::string goal;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const auto invalid = [&](const auto&... parts) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", number, ": ", parts...));
    };
    if (absl::ConsumePrefix(&line, "goal: ")) {
      goal = std::string(line);
      continue;
    }
    if (goal.empty()) return invalid("`", line, "` stands before the first line `goal: ...`");
    GoldItem item;
    item.goal = goal;
    if (absl::ConsumePrefix(&line, absl::StrCat(good, ": "))) {
      item.is = GoldItem::kGood;
    } else if (absl::ConsumePrefix(&line, absl::StrCat(bad, ": "))) {
      item.is = GoldItem::kBad;
    } else {
      return invalid("`", line, "` must be `", bad, ": caption` or `", good, ": caption`");
    }
    item.caption = std::string(line);
    items.push_back(std::move(item));
  }
  if (items.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no captions"));
  return items;
}

absl::StatusOr<std::vector<GoldItem>> ReadCaptions(const std::string& path, const std::string& goal) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<GoldItem> items;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("caption") || !json["caption"].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", number, ": the line must be an object with a `caption`, as `sibyl captions RUN` prints it"));
    }
    GoldItem item;
    item.goal = goal;
    item.caption = json["caption"].get<std::string>();
    items.push_back(std::move(item));
  }
  if (items.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no captions"));
  return items;
}

}  // namespace sibyl::annotator
