#include "common/backoff.h"

#include <gtest/gtest.h>

namespace sibyl {
namespace {

constexpr absl::Duration kFirst = absl::Milliseconds(100), kLimit = absl::Seconds(1);

TEST(Backoff, TheLongestWaitDoublesUpToTheLimit) {
  for (int attempt = 0; attempt < 40; ++attempt) {  // far beyond where a shift would overflow
    absl::Duration longest;
    for (uint64_t seed = 0; seed < 500; ++seed) {
      Backoff backoff(kFirst, kLimit, seed);
      for (int earlier = 0; earlier < attempt; ++earlier) backoff.Next();
      const absl::Duration wait = backoff.Next();
      EXPECT_GE(wait, kFirst / 2);
      longest = std::max(longest, wait);
    }
    const absl::Duration top = attempt < 4 ? kFirst * (1 << attempt) : kLimit;
    EXPECT_LE(longest, top) << attempt;
    EXPECT_GT(longest, top * 0.95) << attempt;
  }
}

TEST(Backoff, ThoseThatFailTogetherDoNotComeBackTogether) {
  Backoff one(kFirst, kLimit, 1), other(kFirst, kLimit, 2);
  int differ = 0;
  for (int i = 0; i < 20; ++i) differ += one.Next() != other.Next();
  EXPECT_EQ(differ, 20);
}

TEST(Backoff, BeginsAnewAfterASuccess) {
  Backoff backoff(kFirst, kLimit, 7);
  for (int i = 0; i < 10; ++i) backoff.Next();
  for (int i = 0; i < 100; ++i) {
    backoff.Reset();
    EXPECT_LE(backoff.Next(), kFirst);
  }
}

}  // namespace
}  // namespace sibyl
