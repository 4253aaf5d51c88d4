#include "learner/experience/caption_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/caption.h"

namespace sibyl::learner {
namespace {

std::vector<int32_t> See(CaptionTable& table, const std::vector<uint64_t>& ids, uint64_t step = 0) {
  std::vector<int32_t> rows(ids.size());
  table.See(ids, step, rows.data());
  return rows;
}

google::protobuf::RepeatedPtrField<v1::CaptionText> Text(const std::string& text, uint64_t id = 0) {
  google::protobuf::RepeatedPtrField<v1::CaptionText> texts;
  v1::CaptionText* one = texts.Add();
  one->set_id(id == 0 ? CaptionId(text) : id);
  one->set_text(text);
  return texts;
}

v1::ScoreUpdate Scores(const std::vector<std::pair<uint64_t, float>>& scores, bool reset = false, bool more = false) {
  v1::ScoreUpdate update;
  update.set_reset(reset);
  update.set_more(more);
  update.mutable_transform()->set_deviation(1);
  update.mutable_transform()->set_threshold(0.5);
  update.mutable_transform()->set_binary(true);
  for (const auto& [id, score] : scores) {
    update.add_id(id);
    update.add_score(score);
  }
  return update;
}

CaptionReward RewardOf(const CaptionTable& table, int32_t row, uint64_t step = 0) {
  CaptionReward reward;
  table.Rewards({&row, 1}, step, &reward);
  return reward;
}

uint64_t IdOf(const CaptionTable& table, int32_t row) {
  uint64_t id = 0;
  table.Ids({&row, 1}, &id);
  return id;
}

TEST(CaptionTable, KeepsTheContextThatCameWithTheText) {
  CaptionTable table(10);
  auto texts = Text("a key");
  See(table, {CaptionId("a key")});
  texts[0].set_context("a door to the left");
  table.AddTexts(texts);
  texts[0].set_context("nothing in view");
  table.AddTexts(texts);
  EXPECT_EQ(table.Texts({CaptionId("a key")}).texts(0).context(), "a door to the left");
  google::protobuf::RepeatedPtrField<v1::CaptionState> saved;
  table.Save(&saved);
  CaptionTable resumed(10);
  resumed.Load(saved);
  EXPECT_EQ(resumed.Texts({CaptionId("a key")}).texts(0).context(), "a door to the left");
}

TEST(CaptionTable, GivesTheEmptyCaptionRowZeroAndNoReward) {
  CaptionTable table(10);
  EXPECT_EQ(See(table, {0})[0], 0);
  EXPECT_EQ(table.size(), 0u);
  EXPECT_FALSE(RewardOf(table, 0).scored);
}

TEST(CaptionTable, GivesOneRowToOneCaption) {
  CaptionTable table(10);
  const auto rows = See(table, {7, 8, 7});
  EXPECT_EQ(rows[0], rows[2]);
  EXPECT_NE(rows[0], rows[1]);
  EXPECT_EQ(IdOf(table, rows[1]), 8u);
}

TEST(CaptionTable, NeverForgetsACaptionThatALiveUnrollNames) {
  CaptionTable table(2);
  const auto pinned = See(table, {1});
  const auto loose = See(table, {2});
  table.Unpin(loose);
  See(table, {3});
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(IdOf(table, pinned[0]), 1u);
  EXPECT_EQ(table.evicted(), 1u);
  See(table, {4});  // everything is pinned: it grows rather than forget
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(IdOf(table, pinned[0]), 1u);
}

TEST(CaptionTable, ForgetsTheLeastRecentlySeenFirst) {
  CaptionTable table(2);
  for (uint64_t id : {1, 2, 1}) table.Unpin(See(table, {id}));
  table.Unpin(See(table, {3}));
  const auto counts = table.TakeChanged(true, 100);
  EXPECT_THAT((std::set<uint64_t>(counts.id().begin(), counts.id().end())), (std::set<uint64_t>{1, 3}));
}

TEST(CaptionTable, KeepsScoresOfCaptionsItHasNotSeenYet) {
  CaptionTable table(10);
  table.Apply(Scores({{5, 0.9f}}), 100);
  const auto rows = See(table, {5});
  EXPECT_TRUE(RewardOf(table, rows[0], 130).scored);
  EXPECT_EQ(RewardOf(table, rows[0], 130).reward, 1.0f);
  EXPECT_EQ(RewardOf(table, rows[0], 130).age, 30u);
}

TEST(CaptionTable, PaysNothingAtOrBelowTheThreshold) {
  CaptionTable table(10);
  const auto rows = See(table, {5, 6});
  table.Apply(Scores({{5, 0.5f}, {6, 0.51f}}), 0);
  EXPECT_EQ(RewardOf(table, rows[0]).reward, 0.0f);
  EXPECT_TRUE(RewardOf(table, rows[0]).scored);
  EXPECT_EQ(RewardOf(table, rows[1]).reward, 1.0f);
}

TEST(CaptionTable, UsesTheNormalisedValueWhenRewardsAreNotBinary) {
  CaptionTable table(10);
  const auto rows = See(table, {5});
  v1::ScoreUpdate update = Scores({{5, 3.0f}});
  update.mutable_transform()->set_mean(1);
  update.mutable_transform()->set_deviation(4);
  update.mutable_transform()->set_threshold(-0.5);
  update.mutable_transform()->set_binary(false);
  table.Apply(update, 0);
  EXPECT_FLOAT_EQ(RewardOf(table, rows[0]).reward, 0.5f);
}

TEST(CaptionTable, ShowsNothingOfASnapshotBeforeItsLastPart) {
  CaptionTable table(10);
  const auto rows = See(table, {5, 6});
  table.Apply(Scores({{5, 1.0f}}), 0);
  table.Apply(Scores({{6, 1.0f}}, /*reset=*/true, /*more=*/true), 0);
  EXPECT_TRUE(RewardOf(table, rows[0]).scored);
  EXPECT_FALSE(RewardOf(table, rows[1]).scored);
  table.Apply(Scores({}, false, false), 0);
  EXPECT_FALSE(RewardOf(table, rows[0]).scored);
  EXPECT_TRUE(RewardOf(table, rows[1]).scored);
}

// Score k of every caption comes in many parts, each larger than what is applied at once.
TEST(CaptionTable, ALargeUpdateTakesEffectAtOneMomentWhileCaptionsComeAndGo) {
  constexpr uint64_t kCaptions = 20'000, kPart = 7000;
  constexpr int kUpdates = 20;
  CaptionTable table(kCaptions + 50);
  std::vector<uint64_t> ids(kCaptions);
  for (uint64_t i = 0; i < kCaptions; ++i) ids[i] = i + 1;
  std::vector<int32_t> rows = See(table, ids);
  const auto apply = [&](int k) {
    for (uint64_t begin = 0; begin < kCaptions; begin += kPart) {
      const uint64_t end = std::min(begin + kPart, kCaptions);
      v1::ScoreUpdate part;
      part.set_reset(begin == 0 && k % 2 == 1);
      part.set_more(end < kCaptions);
      part.set_version(k);
      part.mutable_transform()->set_deviation(1);
      part.mutable_transform()->set_threshold(0);
      for (uint64_t i = begin; i < end; ++i) {
        part.add_id(ids[i]);
        part.add_score(static_cast<float>(k));
      }
      table.Apply(part, k);
    }
  };
  apply(1);
  std::thread applier([&] {
    for (int k = 2; k <= kUpdates; ++k) apply(k);
  });
  std::vector<CaptionReward> rewards(kCaptions);
  float last = 0;
  for (uint64_t other = kCaptions + 1; table.score_version() < kUpdates; ++other) {
    table.Rewards(rows, 100, rewards.data());
    for (const CaptionReward& reward : rewards) ASSERT_EQ(reward.reward, rewards[0].reward);
    EXPECT_GE(rewards[0].reward, last);
    last = rewards[0].reward;
    // One that has no score comes, and makes room for the next soon.
    const auto row = See(table, {other});
    EXPECT_FALSE(RewardOf(table, row[0]).scored);
    table.Unpin(row);
  }
  applier.join();
  EXPECT_EQ(RewardOf(table, rows[kCaptions - 1]).reward, kUpdates);
}

TEST(CaptionTable, TellsAnotherRankWhatItHasSeen) {
  CaptionTable here(10), there(10);
  const uint64_t key = CaptionId("You pick up a key."), door = CaptionId("You open a door.");
  See(there, {key, key, door}, 5);
  there.AddTexts(Text("You pick up a key."));
  See(here, {door}, 2);
  v1::RankNews news;
  there.TakeNews(&news);  // the door's text has not come
  EXPECT_THAT(news.captions().id(), testing::ElementsAre(key));
  here.AddNews(news);
  there.AddTexts(Text("You open a door."));
  See(there, {key}, 9);
  news.Clear();
  there.TakeNews(&news);
  EXPECT_THAT(news.texts().texts_size(), 1) << "a text is told once";
  here.AddNews(news);
  news.Clear();
  there.TakeNews(&news);
  EXPECT_EQ(news.ByteSizeLong(), v1::RankNews().ByteSizeLong()) << "nothing is new";

  std::map<uint64_t, std::pair<uint64_t, uint64_t>> seen;  // count, last step
  const v1::CaptionCounts counts = here.TakeChanged(/*all=*/false, 10);
  for (int i = 0; i < counts.id_size(); ++i) seen[counts.id(i)] = {counts.count(i), counts.last_step(i)};
  EXPECT_EQ(seen[key], std::pair(uint64_t{3}, uint64_t{9}));
  EXPECT_EQ(seen[door], std::pair(uint64_t{2}, uint64_t{5}));
  EXPECT_EQ(here.Texts({key, door}).texts_size(), 2);
}

TEST(CaptionTable, CountsTextsThatAreNotTheirIds) {
  CaptionTable table(10);
  const auto rows = See(table, {CaptionId("a door opens"), 99, 0});
  table.AddTexts(Text("a door opens"));
  table.AddTexts(Text("another", 99));
  EXPECT_EQ(table.collisions(), 1u);
  EXPECT_EQ(table.WithoutText(rows), std::vector<uint64_t>{99});
}

TEST(CaptionTable, ReportsEachChangeOnceAndEverythingOnDemand) {
  CaptionTable table(10);
  See(table, {5, 6, 5}, 40);
  EXPECT_EQ(table.TakeChanged(false, 100).id_size(), 2);
  EXPECT_EQ(table.TakeChanged(false, 100).id_size(), 0);
  See(table, {5}, 50);
  const auto counts = table.TakeChanged(false, 100);
  ASSERT_EQ(counts.id_size(), 1);
  EXPECT_EQ(counts.id(0), 5u);
  EXPECT_EQ(counts.count(0), 3u);
  EXPECT_EQ(counts.last_step(0), 50u);
  EXPECT_EQ(table.TakeChanged(true, 100).id_size(), 2);
}

TEST(CaptionTable, CountsPerIncarnationAfterItWasLoaded) {
  CaptionTable table(10);
  See(table, {5, 5, 5}, 1);
  v1::LearnerState state;
  table.Save(state.mutable_captions());
  CaptionTable loaded(10);
  loaded.Load(state.captions());
  See(loaded, {5}, 9);
  const auto counts = loaded.TakeChanged(false, 10);
  ASSERT_EQ(counts.count_size(), 1);
  EXPECT_EQ(counts.count(0), 1u);
  v1::LearnerState again;
  loaded.Save(again.mutable_captions());
  EXPECT_EQ(again.captions(0).count(), 4u);
}

// Unrolls come and go at random over a table that is far too small for all captions.
TEST(CaptionTable, StaysConsistentUnderRandomUse) {
  CaptionTable table(50);
  uint64_t state = 1;
  const auto random = [&](uint64_t n) {
    return ((state = state * 6364136223846793005u + 1442695040888963407u) >> 33) % n;
  };
  std::deque<std::pair<std::vector<uint64_t>, std::vector<int32_t>>> live;
  for (int i = 0; i < 5000; ++i) {
    std::vector<uint64_t> ids;
    for (int k = 0; k < 5; ++k) ids.push_back(1 + random(0x7fffffff) % 400);
    live.emplace_back(ids, See(table, ids, i));
    if (live.size() > 6) {
      for (size_t k = 0; k < live.front().first.size(); ++k) {
        ASSERT_EQ(IdOf(table, live.front().second[k]), live.front().first[k]);
      }
      table.Unpin(live.front().second);
      live.pop_front();
    }
    if (i % 100 == 0) table.TakeChanged(false, 30);
  }
  EXPECT_LE(table.size(), 50u);
}

}  // namespace
}  // namespace sibyl::learner
