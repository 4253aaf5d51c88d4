// NumpyRandom against numpy.

#include "environments/minigrid/numpy_random.h"

#include <cstdint>
#include <cstdio>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace sibyl::minigrid {
namespace {

std::vector<std::string> ReferenceLines() {
  FILE* pipe = popen(
      absl::StrCat(SIBYL_PYTHON, " ", SIBYL_SOURCE_DIR, "/tests/environments/numpy_random_reference.py").c_str(), "r");
  std::string text;
  char block[4096];
  while (const size_t bytes = std::fread(block, 1, sizeof block, pipe)) text.append(block, bytes);
  EXPECT_EQ(pclose(pipe), 0);
  return absl::StrSplit(text, '\n');
}

// The same calls as the script's, as the same lines.
std::vector<std::string> OurLines() {
  std::vector<std::string> lines;
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();
  const auto power = [](int exponent) { return int64_t{1} << exponent; };
  const std::vector<std::pair<int64_t, int64_t>> bounds = {{0, 1},
                                                           {0, 2},
                                                           {0, 6},
                                                           {-3, 4},
                                                           {5, 12},
                                                           {0, power(31) + 1},
                                                           {0, power(32) - 1},
                                                           {0, power(32)},
                                                           {0, power(32) + 1},
                                                           {-power(62), power(62) + 7},
                                                           {kMin, kMax}};
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{42}, uint64_t{1} << 31, (uint64_t{1} << 32) - 1,
                              uint64_t{1} << 32, (uint64_t{1} << 40) + 12345, (uint64_t{1} << 63) - 1, ~uint64_t{0}}) {
    lines.push_back(absl::StrCat("seed ", seed));
    NumpyRandom random(seed);
    for (int i = 0; i < 40; ++i) {
      for (const auto& [low, high] : bounds) lines.push_back(absl::StrCat(random.Integers(low, high)));
    }
    for (const int length : {0, 1, 2, 6, 8, 100}) {
      for (int i = 0; i < 2; ++i) {  // shuffle, then permutation
        std::vector<int> items(length);
        std::iota(items.begin(), items.end(), 0);
        random.Shuffle(absl::MakeSpan(items));
        lines.push_back(absl::StrJoin(items, " "));
      }
    }
    for (const int length : {1, 2, 7, 100}) lines.push_back(absl::StrCat(10 + random.Integers(0, length)));
    for (const int64_t high : {power(31) + 1, power(62) + power(61) + 1}) {
      std::vector<int64_t> drawn(200);
      for (int64_t& value : drawn) value = random.Integers(0, high);
      lines.push_back(absl::StrJoin(drawn, " "));
    }
  }
  lines.push_back("");
  return lines;
}

TEST(NumpyRandom, DrawsWhatNumpyDraws) {
  const std::vector<std::string> ours = OurLines(), theirs = ReferenceLines();
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) ASSERT_EQ(ours[i], theirs[i]) << "line " << i + 1;
}

TEST(NumpyRandom, KeepsTheOtherHalfOfADrawPastWholeDraws) {
  NumpyRandom halves(7), whole(7);
  const uint64_t first = whole.Next64(), second = whole.Next64();
  EXPECT_EQ(halves.Next32(), static_cast<uint32_t>(first));
  EXPECT_EQ(halves.Next64(), second);
  EXPECT_EQ(halves.Next32(), static_cast<uint32_t>(first >> 32));
}

TEST(NumpyRandom, DrawsNothingWhereOneValueIsPossible) {
  NumpyRandom random(7), untouched(7);
  EXPECT_EQ(random.Integers(5, 6), 5);
  EXPECT_EQ(random.Next64(), untouched.Next64());
}

}  // namespace
}  // namespace sibyl::minigrid
