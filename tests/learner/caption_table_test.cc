#include "learner/experience/caption_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <limits>
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
  EXPECT_TRUE(table.Apply(Scores({{5, 0.9f}}), 100).ok());
  const auto rows = See(table, {5});
  EXPECT_TRUE(RewardOf(table, rows[0], 130).scored);
  EXPECT_EQ(RewardOf(table, rows[0], 130).reward, 1.0f);
  EXPECT_EQ(RewardOf(table, rows[0], 130).age, 30u);
}

TEST(CaptionTable, PaysNothingAtOrBelowTheThreshold) {
  CaptionTable table(10);
  const auto rows = See(table, {5, 6});
  EXPECT_TRUE(table.Apply(Scores({{5, 0.5f}, {6, 0.51f}}), 0).ok());
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
  EXPECT_TRUE(table.Apply(update, 0).ok());
  EXPECT_FLOAT_EQ(RewardOf(table, rows[0]).reward, 0.5f);
}

TEST(CaptionTable, ShowsNothingOfASnapshotBeforeItsLastPart) {
  CaptionTable table(10);
  const auto rows = See(table, {5, 6});
  EXPECT_TRUE(table.Apply(Scores({{5, 1.0f}}), 0).ok());
  EXPECT_TRUE(table.Apply(Scores({{6, 1.0f}}, /*reset=*/true, /*more=*/true), 0).ok());
  EXPECT_TRUE(RewardOf(table, rows[0]).scored);
  EXPECT_FALSE(RewardOf(table, rows[1]).scored);
  EXPECT_TRUE(table.Apply(Scores({}, false, false), 0).ok());
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
      part.set_score_version(k);
      part.mutable_transform()->set_deviation(1);
      part.mutable_transform()->set_threshold(0);
      for (uint64_t i = begin; i < end; ++i) {
        part.add_id(ids[i]);
        part.add_score(static_cast<float>(k));
      }
      EXPECT_TRUE(table.Apply(part, k).ok());
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

TEST(CaptionTable, ForgetsByBytesOfTextToo) {
  CaptionTable table(10, /*text_bytes=*/10);
  for (const char* text : {"door", "wall", "key"}) {
    table.Unpin(See(table, {CaptionId(text)}));
    table.AddTexts(Text(text));
  }
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.text_bytes(), 7u);
  EXPECT_EQ(table.evicted(), 1u);
  EXPECT_EQ(table.Texts({CaptionId("door")}).texts_size(), 0);
  const auto pinned = See(table, {CaptionId("wall"), CaptionId("key")});
  See(table, {CaptionId("door")});
  table.AddTexts(Text("door"));
  EXPECT_EQ(table.text_bytes(), 11u) << "all are pinned: it grows rather than forget";
  EXPECT_EQ(IdOf(table, pinned[0]), CaptionId("wall"));
}

TEST(CaptionTable, AForgottenCaptionsRowServesAnother) {
  CaptionTable table(10, /*text_bytes=*/4);
  const auto door = See(table, {CaptionId("door")});
  table.AddTexts(Text("door"));
  table.Unpin(door);
  See(table, {CaptionId("wall")});
  table.AddTexts(Text("wall"));
  EXPECT_EQ(See(table, {CaptionId("key")})[0], door[0]);
  EXPECT_FALSE(RewardOf(table, door[0]).scored);
  const auto counts = table.TakeChanged(false, 100);
  EXPECT_THAT(counts.id(), testing::UnorderedElementsAre(CaptionId("wall"), CaptionId("key")));
}

TEST(CaptionTable, KeepsTheScoreOfAForgottenCaption) {
  CaptionTable table(1);
  table.Unpin(See(table, {5}));
  EXPECT_TRUE(table.Apply(Scores({{5, 0.9f}}), 3).ok());
  table.Unpin(See(table, {6}));
  EXPECT_EQ(table.scores_without_row(), 1u);
  const auto rows = See(table, {5});
  EXPECT_TRUE(RewardOf(table, rows[0]).scored);
  EXPECT_EQ(RewardOf(table, rows[0], 10).age, 7u);
  EXPECT_EQ(table.scores_without_row(), 0u);
}

TEST(CaptionTable, ScoresOfUnknownCaptionsAreBounded) {
  CaptionTable table(2);
  EXPECT_TRUE(table.Apply(Scores({{5, 0.9f}, {6, 0.9f}}), 0).ok());
  EXPECT_TRUE(table.Apply(Scores({{5, 0.8f}}), 0).ok());
  EXPECT_EQ(table.scores_dropped(), 0u);
  EXPECT_TRUE(table.Apply(Scores({{7, 0.9f}}), 0).ok());
  EXPECT_EQ(table.scores_without_row(), 2u);
  EXPECT_EQ(table.scores_dropped(), 1u);
  EXPECT_FALSE(RewardOf(table, See(table, {5})[0]).scored) << "it came first";
  EXPECT_TRUE(RewardOf(table, See(table, {7})[0]).scored);
  v1::ScoreUpdate removal = Scores({});
  removal.add_removed(6);
  EXPECT_TRUE(table.Apply(removal, 0).ok());
  EXPECT_EQ(table.scores_without_row(), 0u);
}

TEST(CaptionTable, RefusesWhatIsNotFiniteAndAppliesNothingOfIt) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
  CaptionTable table(10);
  const auto rows = See(table, {5, 6});
  for (const float bad : {nan, infinite, -infinite, 1e10f}) {
    EXPECT_EQ(table.Apply(Scores({{5, 0.9f}, {6, bad}}), 0).code(), absl::StatusCode::kInvalidArgument) << bad;
    v1::ScoreUpdate update = Scores({{5, 0.9f}});
    update.mutable_transform()->set_mean(bad);
    EXPECT_EQ(table.Apply(update, 0).code(), absl::StatusCode::kInvalidArgument) << bad;
    update = Scores({{5, 0.9f}});
    update.mutable_transform()->set_deviation(-bad);
    EXPECT_EQ(table.Apply(update, 0).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  v1::ScoreUpdate update = Scores({{5, 0.9f}});
  update.add_id(6);
  const absl::Status status = table.Apply(update, 0);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("2 ids and 1 scores"));
  EXPECT_FALSE(RewardOf(table, rows[0]).scored);
}

// More rows than one piece takes, some of them free.
TEST(CaptionTable, SavesAndReportsEachCaptionOnceInPieces) {
  constexpr uint64_t kCaptions = 10'000;
  CaptionTable table(kCaptions);
  for (uint64_t id = 1; id <= kCaptions + 100; ++id) table.Unpin(See(table, {id}, id));
  google::protobuf::RepeatedPtrField<v1::CaptionState> piece, all;
  int32_t next_row = 0;
  int pieces = 0;
  for (bool more = true; more; ++pieces) {
    piece.Clear();
    more = table.SavePiece(&next_row, &piece);
    EXPECT_LE(piece.size(), 4096);
    all.MergeFrom(piece);
  }
  EXPECT_EQ(pieces, 3);
  std::set<uint64_t> ids;
  for (const v1::CaptionState& state : all) ids.insert(state.id());
  EXPECT_EQ(all.size(), static_cast<int>(kCaptions));
  EXPECT_EQ(ids.size(), kCaptions);
  EXPECT_EQ(*ids.begin(), 101u);

  ids.clear();
  int reported = 0;
  for (bool first = true;; first = false) {
    const v1::CaptionCounts counts = table.TakeChanged(/*all=*/first, 3000);
    ids.insert(counts.id().begin(), counts.id().end());
    reported += counts.id_size();
    if (counts.id_size() < 3000) break;
  }
  EXPECT_EQ(reported, static_cast<int>(kCaptions));
  EXPECT_EQ(ids.size(), kCaptions);
}

TEST(CaptionTable, AfterARestartForgetsTheLeastRecentlySeenFirst) {
  google::protobuf::RepeatedPtrField<v1::CaptionState> saved;
  for (const auto& [id, step] : {std::pair(1, 30), {2, 10}, {3, 20}}) {
    saved.Add()->set_id(id);
    saved[saved.size() - 1].set_last_step(step);
  }
  CaptionTable table(3);
  table.Load(saved);
  See(table, {4}, 40);
  google::protobuf::RepeatedPtrField<v1::CaptionState> left;
  table.Save(&left);
  std::set<uint64_t> ids;
  for (const v1::CaptionState& state : left) ids.insert(state.id());
  EXPECT_EQ(ids, (std::set<uint64_t>{1, 3, 4}));
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
