// Each folder includes only what stands above it in the order that CMakeLists.txt has, the stages never one another,
// and LibTorch appears in policy, learner, reward_model and actor/local only.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

// What each folder may include besides itself and generated code ("sibyl/v1/...").
const std::map<std::string, std::set<std::string>>& Allowed() {
  static const auto& allowed = *new std::map<std::string, std::set<std::string>>{
      {"common", {}},
      {"environments", {"common"}},
      {"policy", {"common", "environments"}},
      {"actor", {"common", "environments"}},
      {"actor/local", {"common", "environments", "policy", "actor"}},
      {"learner", {"common", "environments", "policy"}},
      {"reward_model", {"common", "environments", "policy"}},
      {"annotator", {"common", "environments"}},
      {"cli", {"common", "environments"}},
      {"cli/judge", {"common", "annotator", "reward_model"}},
  };
  return allowed;
}
const std::set<std::string> kTorch = {"policy", "learner", "reward_model", "actor/local"};

struct Include {
  std::string file;    // relative to the source tree
  std::string folder;  // the file's, as in Allowed
  std::string header;  // as it is named
};

std::string FolderOf(const std::string& path) {
  for (const char* part : {"actor/local", "cli/judge"}) {
    if (absl::StartsWith(path, absl::StrCat(part, "/"))) return part;
  }
  return path.substr(0, path.find('/'));
}

std::vector<Include> Includes() {
  const std::regex line("(?:^|\n)[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"]");
  std::vector<Include> includes;
  for (const auto& [folder, allowed] : Allowed()) {
    if (folder.find('/') != std::string::npos) continue;  // seen with the folder that it is in
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(SIBYL_SOURCE_DIR) / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".cc" && extension != ".h") continue;
      const std::string file = fs::relative(entry.path(), SIBYL_SOURCE_DIR).string();
      const std::string text = *ReadFile(entry.path().string());
      // Directives end at the line's end, so overlapping matches need no care: each consumes only its own first break.
      for (std::sregex_iterator match(text.begin(), text.end(), line), end; match != end; ++match) {
        includes.push_back({file, FolderOf(file), (*match)[1]});
      }
    }
  }
  return includes;
}

TEST(Layering, EachFolderIncludesOnlyWhatStandsAboveIt) {
  int seen = 0;
  for (const Include& include : Includes()) {
    const std::string target = FolderOf(include.header);
    if (!Allowed().contains(target)) continue;  // a library's
    ++seen;
    if (target == include.folder) continue;
    EXPECT_TRUE(Allowed().at(include.folder).contains(target)) << include.file << " includes " << include.header;
  }
  EXPECT_GT(seen, 100);
}

TEST(Layering, LibTorchIsWhereItMayBe) {
  int seen = 0;
  for (const Include& include : Includes()) {
    bool torch = false;
    for (const char* prefix : {"torch/", "ATen/", "c10/", "c10d/"}) torch |= absl::StartsWith(include.header, prefix);
    if (!torch) continue;
    ++seen;
    EXPECT_TRUE(kTorch.contains(include.folder)) << include.file << " includes " << include.header;
  }
  EXPECT_GT(seen, 0);
}

TEST(Layering, LibTorchComesThroughItsNarrowHeader) {
  for (const Include& include : Includes()) {
    EXPECT_FALSE(include.header == "torch/torch.h" || include.header == "torch/extension.h")
        << include.file << " includes " << include.header << "; include policy/torch.h, which is precompiled";
  }
}

TEST(Layering, IncludesAreFromTheRepositorysRoot) {
  for (const Include& include : Includes()) {
    EXPECT_FALSE(absl::StartsWith(include.header, "..") || absl::StartsWith(include.header, "./"))
        << include.file << " includes " << include.header << "; includes are from the repository's root";
  }
}

}  // namespace
}  // namespace sibyl
