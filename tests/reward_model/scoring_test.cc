// What a caption is worth: the score log, retrieval, and the feed of scores to the learner.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/config.h"
#include "reward_model/scoring/retrieval.h"
#include "reward_model/scoring/score_feed.h"
#include "reward_model/scoring/score_log.h"

namespace sibyl::reward_model {
namespace {

using ::testing::ElementsAre;

v1::ScoreUpdate Update(uint64_t id) {
  v1::ScoreUpdate update;
  update.add_id(id);
  update.add_score(1);
  return update;
}

v1::ScoreUpdate SnapshotPart(bool first, bool more) {
  v1::ScoreUpdate update = Update(1);
  update.set_reset(first);
  update.set_more(more);
  return update;
}

TEST(ScoreLog, CountsFromOneWithoutGaps) {
  ScoreLog log(100);
  EXPECT_EQ(log.last_sequence(), 0);
  EXPECT_EQ(log.Append(SnapshotPart(true, true)).sequence(), 1);
  EXPECT_EQ(log.Append(SnapshotPart(false, false)).sequence(), 2);
  EXPECT_EQ(log.Append(Update(5)).sequence(), 3);
}

TEST(ScoreLog, GivesExactlyWhatCameAfter) {
  ScoreLog log(100);
  log.Append(SnapshotPart(true, false));
  for (uint64_t id = 2; id <= 5; ++id) log.Append(Update(id));
  const auto missed = log.Since(3);
  ASSERT_TRUE(missed.has_value());
  ASSERT_EQ(missed->size(), 2);
  EXPECT_EQ(missed->at(0).sequence(), 4);
  EXPECT_THAT(missed->at(1).id(), ElementsAre(5));
  EXPECT_TRUE(log.Since(5)->empty());
}

TEST(ScoreLog, DoesNotPretendToKnowWhatItDoesNot) {
  ScoreLog log(100);
  EXPECT_FALSE(log.Since(0).has_value());
  log.Append(SnapshotPart(true, true));
  log.Append(SnapshotPart(false, true));
  log.Append(SnapshotPart(false, false));
  EXPECT_FALSE(log.Since(0).has_value());
  EXPECT_FALSE(log.Since(2).has_value()) << "half a snapshot is nothing to go on from";
  EXPECT_TRUE(log.Since(3).has_value());
  EXPECT_FALSE(log.Since(4).has_value()) << "from the future";
}

TEST(ScoreLog, RemembersABoundedNumberOfRows) {
  ScoreLog log(10);
  log.Append(SnapshotPart(true, false));
  for (uint64_t id = 2; id <= 20; ++id) log.Append(Update(id));
  EXPECT_FALSE(log.Since(14).has_value());
  EXPECT_EQ(log.Since(15)->size(), 5) << "two for each update";
}

TEST(Retrieval, ScoresTheMeanOverAnswersAndNothingElse) {
  v1::Experiment experiment;
  FillDefaults(&experiment);
  Retrieval retrieval(experiment.reward_model());
  EXPECT_FLOAT_EQ(retrieval.transform().mean(), 0);
  EXPECT_FLOAT_EQ(retrieval.transform().deviation(), 1);
  EXPECT_TRUE(retrieval.transform().binary());
  Caption twice, never, unanswered;
  twice.id = 1;
  never.id = 2;
  unanswered.id = 3;
  retrieval.Observe(twice, {2, 1.5, 0}, 2);
  retrieval.Observe(unanswered, {0, 0, 3}, 0);
  const std::vector<const Caption*> captions = {&twice, &never, &unanswered};
  std::vector<std::optional<float>> scores(3);
  retrieval.Score(captions, absl::MakeSpan(scores));
  EXPECT_THAT(scores, ElementsAre(0.75f, std::nullopt, std::nullopt));
  EXPECT_EQ(retrieval.score_version(), 2u);
  // A label without an answer takes the place of both.
  retrieval.Observe(twice, {0, 0, 1}, 0);
  retrieval.Score(captions, absl::MakeSpan(scores));
  EXPECT_EQ(scores[0], std::nullopt);
}

// --- ScoreFeed ---

class ScoreFeedTest : public ::testing::Test {
 protected:
  ScoreFeedTest() { FillDefaults(&experiment_); }

  Caption& Seen(const std::string& text) {
    captions_.SetText(CaptionId(text), text, "");
    Caption& caption = *captions_.Find(CaptionId(text));
    captions_.SetLearnerCount(caption, 1, 0);
    return caption;
  }
  void Label(const std::string& text, double good) {
    model_.Observe(*captions_.Find(CaptionId(text)), {1, good, 0}, 1);
    feed_.MarkChanged(CaptionId(text));
  }

  v1::Experiment experiment_;
  CaptionBook captions_;
  Retrieval model_{experiment_.reward_model()};
  ScoreFeed feed_{captions_, model_, 1000};
};

TEST_F(ScoreFeedTest, SendsAScoreOnceUntilItChangesOrTheLearnerLostIt) {
  const Caption& door = Seen("a door");
  Label("a door", 0.5);
  EXPECT_THAT(feed_.Next()->id(), ElementsAre(door.id));
  EXPECT_FALSE(feed_.Next().has_value());
  feed_.MarkChanged(door.id);
  EXPECT_FALSE(feed_.Next().has_value()) << "it is what it was";
  feed_.Resend(door.id);
  EXPECT_THAT(feed_.Next()->score(), ElementsAre(0.5f));
  Label("a door", 0.75);
  EXPECT_THAT(feed_.Next()->score(), ElementsAre(0.75f));
}

TEST_F(ScoreFeedTest, SaysNothingOfCaptionsThatTheRunHasNotSeen) {
  captions_.SetText(CaptionId("a door"), "a door", "");
  Label("a door", 1);
  EXPECT_FALSE(feed_.Next().has_value());
  const Caption& door = Seen("a door");
  feed_.MarkChanged(door.id);
  EXPECT_THAT(feed_.Next()->id(), ElementsAre(door.id));
}

TEST_F(ScoreFeedTest, RemovesScoresThatAreVoidAndOfForgottenCaptions) {
  Caption& door = Seen("a door");
  const Caption& key = Seen("a key");
  Label("a door", 1);
  Label("a key", 1);
  EXPECT_EQ(feed_.Next()->id_size(), 2);
  const uint64_t door_id = door.id;
  model_.Forget(door_id);
  captions_.Forget(door);
  feed_.MarkChanged(door_id);
  EXPECT_THAT(feed_.Next()->removed(), ElementsAre(door_id));
  model_.Restart();
  feed_.MarkChanged(key.id);
  EXPECT_THAT(feed_.Next()->removed(), ElementsAre(key.id));
  EXPECT_FALSE(feed_.Next().has_value());
}

TEST_F(ScoreFeedTest, ACaptionForgottenAndSeenAgainMeanwhileKeepsItsScore) {
  Caption& door = Seen("a door");
  Label("a door", 1);
  EXPECT_TRUE(feed_.Next().has_value());
  feed_.MarkChanged(door.id);
  captions_.Forget(door);
  Seen("a door");
  EXPECT_FALSE(feed_.Next().has_value());
}

TEST_F(ScoreFeedTest, ASnapshotHasAllScoresInBoundedParts) {
  const size_t captions = ScoreFeed::kRowsPerUpdate + 1;
  for (size_t i = 0; i < captions; ++i) {
    Seen(absl::StrCat(i));
    Label(absl::StrCat(i), 1);
  }
  while (feed_.Next().has_value()) {
  }
  feed_.BeginSnapshot();
  const v1::ScoreUpdate first = feed_.NextOfSnapshot();
  EXPECT_TRUE(first.reset() && first.more() && feed_.in_snapshot());
  EXPECT_EQ(first.id_size(), static_cast<int>(ScoreFeed::kRowsPerUpdate));
  EXPECT_FALSE(feed_.Since(first.sequence()).has_value()) << "half a snapshot is nothing to go on from";
  const v1::ScoreUpdate second = feed_.NextOfSnapshot();
  EXPECT_FALSE(second.reset() || second.more() || feed_.in_snapshot());
  EXPECT_EQ(second.id_size(), 1);
  EXPECT_TRUE(feed_.Since(second.sequence()).has_value());
  feed_.BeginSnapshot();
  EXPECT_TRUE(feed_.NextOfSnapshot().reset()) << "anew";
}

}  // namespace
}  // namespace sibyl::reward_model
