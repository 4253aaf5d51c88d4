// The workbench's parts: gold files, and agreement with them.

#include "annotator/quality/gold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "annotator/quality/agreement.h"

namespace sibyl::annotator {
namespace {

using ::testing::HasSubstr;

class GoldTest : public ::testing::Test {
 protected:
  ~GoldTest() override { std::filesystem::remove(path_); }
  std::string Write(const std::string& text) const {
    std::ofstream(path_) << text;
    return path_;
  }
  std::string Error(const std::string& text) const {
    return std::string(ReadGold(Write(text), "unhelpful", "helpful").status().message());
  }
  const std::string path_ = testing::TempDir() + "gold." + std::to_string(getpid());
};

TEST_F(GoldTest, LinesBelongToTheGoalAboveThem) {
  const auto items =
      ReadGold(Write("# remark\n\ngoal: win: now\nhelpful: You win: yes.\nunhelpful: You lose.\ngoal: b\n"
                     "helpful: c\n"),
               "unhelpful", "helpful");
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_EQ(items->size(), 3u);
  EXPECT_EQ((*items)[0].goal, "win: now");
  EXPECT_EQ((*items)[0].caption, "You win: yes.");
  EXPECT_EQ((*items)[0].is, GoldItem::kGood);
  EXPECT_EQ((*items)[1].is, GoldItem::kBad);
  EXPECT_EQ((*items)[2].goal, "b");
}

TEST_F(GoldTest, ErrorsNameTheLine) {
  EXPECT_THAT(Error("helpful: a\n"), HasSubstr(":1: `helpful: a` stands before the first line `goal: ...`"));
  EXPECT_THAT(Error("goal: a\nuseful: b\n"), HasSubstr(":2: `useful: b` must be `unhelpful: caption`"));
  EXPECT_THAT(Error("# nothing\n"), HasSubstr("has no captions"));
}

TEST_F(GoldTest, TheShippedFilesHaveWhatTheySay) {
  const auto minigrid = ReadGold(SIBYL_SOURCE_DIR "/configs/gold/minigrid.txt", "unhelpful", "helpful");
  ASSERT_TRUE(minigrid.ok()) << minigrid.status();
  EXPECT_EQ(minigrid->size(), 107u);
  const auto nethack = ReadGold(SIBYL_SOURCE_DIR "/configs/gold/nethack.txt", "unhelpful", "helpful");
  ASSERT_TRUE(nethack.ok()) << nethack.status();
  EXPECT_EQ(nethack->size(), 100u);
  EXPECT_EQ(
      std::count_if(nethack->begin(), nethack->end(), [](const GoldItem& item) { return item.is == GoldItem::kGood; }),
      43);
}

// A prompt that quotes the gold set would be measured by what it was told.
TEST_F(GoldTest, NoPromptQuotesAGoldSet) {
  for (const char* folder : {"/configs/prompts", "/experiments/prompts"}) {
    for (const auto& file : std::filesystem::directory_iterator(std::string(SIBYL_SOURCE_DIR) + folder)) {
      std::ifstream in(file.path());
      const std::string text((std::istreambuf_iterator<char>(in)), {});
      for (const char* gold : {"minigrid", "nethack"}) {
        const auto items =
            ReadGold(std::string(SIBYL_SOURCE_DIR "/configs/gold/") + gold + ".txt", "unhelpful", "helpful");
        ASSERT_TRUE(items.ok()) << items.status();
        for (const GoldItem& item : *items) {
          EXPECT_EQ(text.find(item.caption), std::string::npos) << file.path() << " quotes " << item.caption;
        }
      }
    }
  }
}

TEST(Agreement, TheAreaCountsPairsInTheRightOrder) {
  EXPECT_DOUBLE_EQ(Auc({0.9, 0.8}, {0.1, 0.2}).value, 1);
  EXPECT_DOUBLE_EQ(Auc({0.1, 0.2}, {0.9, 0.8}).value, 0);
  EXPECT_DOUBLE_EQ(Auc({0.5}, {0.5}).value, 0.5) << "a tie is half a pair";
  // Of six pairs two are in the wrong order, and one is a tie.
  const Interval auc = Auc({0.3, 0.6, 0.9}, {0.4, 0.6});
  EXPECT_DOUBLE_EQ(auc.value, 3.5 / 6);
  EXPECT_LE(auc.low, auc.value);
  EXPECT_GE(auc.high, auc.value);
  EXPECT_TRUE(std::isnan(Auc({}, {0.1}).value));
}

TEST(Agreement, SharesHaveWilsonsInterval) {
  // Brown, Cai and DasGupta's formula by hand: 8 of 10.
  const Interval share = Share(8, 10);
  EXPECT_DOUBLE_EQ(share.value, 0.8);
  EXPECT_NEAR(share.low, 0.4902, 1e-4);
  EXPECT_NEAR(share.high, 0.9433, 1e-4);
  EXPECT_DOUBLE_EQ(Share(0, 5).low, 0);
  EXPECT_TRUE(std::isnan(Share(0, 0).value));
}

}  // namespace
}  // namespace sibyl::annotator
