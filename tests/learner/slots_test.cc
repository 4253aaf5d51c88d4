#include "learner/serving/slots.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace sibyl::learner {
namespace {

class SlotsTest : public testing::Test {
 protected:
  SlotsTest() {
    std::string folder = testing::TempDir() + "/slots.XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  ~SlotsTest() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<Slots> Open(int count = 2) { return std::move(*Slots::Open(count, folder_ + "/episodes.pb")); }
  std::string folder_;
};

TEST_F(SlotsTest, GivesEachActorASlotOfItsOwn) {
  const auto slots = Open();
  EXPECT_EQ(slots->Acquire(nullptr)->lease.slot(), 0u);
  EXPECT_EQ(slots->Acquire(nullptr)->lease.slot(), 1u);
  const auto third = slots->Acquire(nullptr);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(third.status().message().find("learner.max_actors"), std::string::npos);
}

TEST_F(SlotsTest, GivesAFreedSlotToTheNextActorWithFreshEpisodes) {
  const auto slots = Open();
  const auto first = slots->Acquire(nullptr);
  slots->Release(first->lease);
  const auto second = slots->Acquire(nullptr);
  EXPECT_EQ(second->lease.slot(), first->lease.slot());
  EXPECT_GE(second->episodes.begin(), first->episodes.end());
}

TEST_F(SlotsTest, RefusesAStaleLeaseAndGivesNoTokenAway) {
  const auto slots = Open();
  const auto first = slots->Acquire(nullptr);
  const auto again = slots->Acquire(&first->lease);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->lease.slot(), first->lease.slot());
  const auto stale = slots->Acquire(&first->lease);
  EXPECT_EQ(stale.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(stale.status().message().find("stale"), std::string::npos);
  EXPECT_EQ(stale.status().message().find(std::to_string(first->lease.token())), std::string::npos);
  EXPECT_EQ(stale.status().message().find(std::to_string(again->lease.token())), std::string::npos);
}

TEST_F(SlotsTest, IgnoresAReleaseByAStaleLease) {
  const auto slots = Open(1);
  const auto first = slots->Acquire(nullptr);
  const auto again = slots->Acquire(&first->lease);
  slots->Release(first->lease);
  EXPECT_EQ(slots->taken(), 1);
  slots->Release(again->lease);
  EXPECT_EQ(slots->taken(), 0);
}

TEST_F(SlotsTest, NeverHandsOutAnEpisodeTwiceAcrossRestarts) {
  uint64_t next = 0;
  for (int restart = 0; restart < 4; ++restart) {
    const auto slots = Open();
    const auto grant = slots->Acquire(nullptr);
    EXPECT_GE(grant->episodes.begin(), next);
    next = grant->episodes.end();
    const auto more = slots->Extend(grant->lease.slot());
    EXPECT_EQ(more->begin(), next);
    next = more->end();
  }
}

TEST_F(SlotsTest, RefusesADamagedFile) {
  std::ofstream(folder_ + "/episodes.pb") << "\xff\xff\xff";
  const auto slots = Slots::Open(1, folder_ + "/episodes.pb");
  EXPECT_EQ(slots.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(slots.status().message().find("episodes.pb"), std::string::npos);
}

}  // namespace
}  // namespace sibyl::learner
