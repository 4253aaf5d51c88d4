// docs/metrics.md lists the metrics that the code makes, and no other; the command line reads none that is not made.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <regex>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

void Collect(const std::string& text, const std::regex& pattern, std::set<std::string>* names) {
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    names->insert((*match)[1]);
  }
}

// Names that sources make metrics of: the first argument of Counter, Gauge and Histogram, a family's name, or in Python
// what follows `# TYPE`.
std::set<std::string> Made() {
  const std::regex made("(?:\\b(?:Counter|Gauge|Histogram)\\(|\\.name =)\\s*\"(sibyl_[a-z0-9_]+)\"");
  std::set<std::string> names;
  for (const char* folder : {"actor", "annotator", "learner", "reward_model", "common", "cli", "policy"}) {
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(SIBYL_SOURCE_DIR) / folder)) {
      if (!entry.is_regular_file()) continue;
      const auto extension = entry.path().extension();
      const std::string text = *ReadFile(entry.path().string());
      if (extension == ".cc" || extension == ".h") Collect(text, made, &names);
      if (extension == ".in") Collect(text, std::regex("# TYPE (sibyl_[a-z0-9_]+)"), &names);
    }
  }
  return names;
}

TEST(MetricsPage, ListsWhatTheCodeMakesAndNothingElse) {
  const std::set<std::string> made = Made();
  EXPECT_GE(made.size(), 30u);
  const auto page = ReadFile(SIBYL_SOURCE_DIR "/docs/metrics.md");
  ASSERT_TRUE(page.ok()) << page.status();
  std::set<std::string> listed;
  Collect(*page, std::regex("\\b(sibyl_[a-z0-9_]+)"), &listed);
  std::vector<std::string> unlisted, unmade;
  std::set_difference(made.begin(), made.end(), listed.begin(), listed.end(), std::back_inserter(unlisted));
  for (const std::string& name : listed) {
    // A histogram's series have endings of their own.
    absl::string_view base = name;
    if (!made.contains(name)) {
      for (const char* ending : {"_bucket", "_sum", "_count"}) {
        if (absl::ConsumeSuffix(&base, ending)) break;
      }
    }
    if (!made.contains(std::string(base))) unmade.push_back(name);
  }
  EXPECT_TRUE(unlisted.empty()) << "made, but not in docs/metrics.md: " << absl::StrJoin(unlisted, ", ");
  EXPECT_TRUE(unmade.empty()) << "in docs/metrics.md, but not made: " << absl::StrJoin(unmade, ", ");
}

TEST(MetricsPage, NamesAreWellFormed) {
  // Prometheus: base units; only counters end in _total.
  for (const std::string& name : Made()) {
    EXPECT_FALSE(absl::EndsWith(name, "_ms") || absl::EndsWith(name, "_millis") || absl::EndsWith(name, "_mb")) << name;
  }
}

TEST(Alerts, AreAboutMetricsThatAreMade) {
  const std::set<std::string> made = Made();
  std::set<std::string> read;
  Collect(*ReadFile(SIBYL_SOURCE_DIR "/deploy/alerts.yml"), std::regex("\\b(sibyl_[a-z0-9_]+)[{\\[) ]"), &read);
  EXPECT_GE(read.size(), 4u);
  for (const std::string& name : read)
    EXPECT_TRUE(made.contains(name)) << name << " is in an alert and nothing makes it";
}

TEST(Progress, ReadsOnlyMetricsThatAreMade) {
  const std::set<std::string> made = Made();
  std::set<std::string> read;
  Collect(*ReadFile(SIBYL_SOURCE_DIR "/cli/progress.cc"), std::regex("\"(sibyl_[a-z0-9_]+)\""), &read);
  EXPECT_GE(read.size(), 10u);
  for (const std::string& name : read) EXPECT_TRUE(made.contains(name)) << name << " is read and nothing makes it";
}

}  // namespace
}  // namespace sibyl
