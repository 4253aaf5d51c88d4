// The parts that know nothing of each other: candidates, texts to request, the score log, the caption book, retrieval.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/caption.h"
#include "common/config.h"
#include "reward_model/asking/candidates.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/scoring/retrieval.h"
#include "reward_model/scoring/score_log.h"
#include "reward_model/captions/text_requests.h"

namespace sibyl::reward_model {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Candidates, GivesTheMostUrgentFirst) {
  Candidates candidates(10);
  candidates.Offer(1, 1.0);
  candidates.Offer(2, 3.0);
  candidates.Offer(3, 2.0);
  EXPECT_THAT(candidates.Take(2), ElementsAre(2, 3));
  EXPECT_THAT(candidates.Take(2), ElementsAre(1));
  EXPECT_EQ(candidates.size(), 0);
}

TEST(Candidates, DropsTheLeastUrgentWhenFullAndTakesItBackWhenOfferedAgain) {
  Candidates candidates(2);
  candidates.Offer(1, 1.0);
  candidates.Offer(2, 2.0);
  candidates.Offer(3, 3.0);
  EXPECT_EQ(candidates.size(), 2);
  EXPECT_EQ(candidates.dropped(), 1);
  candidates.Offer(1, 4.0);
  EXPECT_THAT(candidates.Take(9), ElementsAre(1, 3));
}

TEST(Candidates, HoldsACaptionOnceAtItsLastUrgency) {
  Candidates candidates(10);
  for (double urgency : {1.0, 5.0, 3.0, 3.0}) candidates.Offer(7, urgency);
  candidates.Offer(8, 4.0);
  EXPECT_THAT(candidates.Take(9), ElementsAre(8, 7));
  candidates.Offer(7, 1.0);
  candidates.Remove(7);
  candidates.Remove(7);
  EXPECT_THAT(candidates.Take(9), IsEmpty());
}

TEST(Urgency, RisesWithCountAndRecency) {
  EXPECT_GT(Urgency(10, 0), Urgency(9, 0));
  EXPECT_GT(Urgency(10, 1), Urgency(10, 0));
  // Half the count, one half-life later.
  EXPECT_NEAR(Urgency(1023, 0), Urgency(511, static_cast<uint64_t>(kUrgencyHalfLifeSteps)), 1e-9);
}

TEST(TextRequests, AsksOnceAndAgainOnlyWhenNoAnswerCame) {
  TextRequests requests;
  absl::Time now = absl::UnixEpoch();
  requests.Want(1);
  requests.Want(2);
  requests.Want(1);
  EXPECT_THAT(requests.Next(now), ElementsAre(1, 2));
  requests.Want(1);
  EXPECT_THAT(requests.Next(now), IsEmpty());
  requests.Got(2);
  EXPECT_EQ(requests.missing(), 1);
  now += TextRequests::kRetryAfter;
  EXPECT_THAT(requests.Next(now), ElementsAre(1));
  requests.Got(1);
  EXPECT_THAT(requests.Next(now + TextRequests::kRetryAfter), IsEmpty());
}

TEST(TextRequests, AsksABoundedNumberAtATime) {
  TextRequests requests;
  for (uint64_t id = 1; id <= 2 * TextRequests::kMaxInFlight; ++id) requests.Want(id);
  const absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(requests.Next(now).size(), TextRequests::kMaxInFlight);
  EXPECT_THAT(requests.Next(now), IsEmpty());
  for (uint64_t id = 1; id <= 10; ++id) requests.Got(id);
  EXPECT_EQ(requests.Next(now).size(), 10);
}

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

TEST(CaptionBook, CountsOverLearnerIncarnationsWithoutCountingTwice) {
  CaptionBook book;
  Caption& caption = book.FindOrAdd(7);
  EXPECT_TRUE(CaptionBook::SetLearnerCount(caption, 10, 100));
  EXPECT_FALSE(CaptionBook::SetLearnerCount(caption, 10, 100));
  EXPECT_FALSE(CaptionBook::SetLearnerCount(caption, 15, 120));
  EXPECT_EQ(caption.count, 15);
  book.StartLearnerIncarnation();
  EXPECT_TRUE(CaptionBook::SetLearnerCount(caption, 4, 90));
  EXPECT_EQ(caption.count, 19);
  EXPECT_EQ(caption.last_step, 120);
  EXPECT_TRUE(CaptionBook::SetLearnerCount(caption, 1, 130)) << "the learner forgot the caption and saw it again";
  EXPECT_EQ(caption.count, 20);
}

TEST(CaptionBook, RefusesTextsThatAreNotTheIds) {
  CaptionBook book;
  EXPECT_EQ(book.SetText(CaptionId("a") + 1, "a", ""), CaptionBook::TextOutcome::kMismatch);
  EXPECT_EQ(book.SetText(5, "", ""), CaptionBook::TextOutcome::kMismatch);
  EXPECT_EQ(book.size(), 0);
  EXPECT_EQ(book.SetText(CaptionId("a"), "a", "first"), CaptionBook::TextOutcome::kNew);
  EXPECT_EQ(book.SetText(CaptionId("a"), "a", "second"), CaptionBook::TextOutcome::kSame);
  EXPECT_EQ(book.Find(CaptionId("a"))->context, "first");
}

// Two texts of 16 printable characters with the same id. XXH64 takes 8 bytes at a time by steps that can be undone, so
// for another first half there is always a second half that makes the hashes meet; only few are printable.
std::pair<std::string, std::string> CollidingTexts() {
  constexpr uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p4 = 0x85EBCA77C2B2AE63u,
                     p5 = 0x27D4EB2F165667C5u;
  const auto rotate = [](uint64_t x, int r) { return (x << r) | (x >> (64 - r)); };
  const auto round = [&](uint64_t lane) { return rotate(lane * p2, 31) * p1; };
  const auto inverse = [](uint64_t odd) {
    uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  const auto load = [](const char* text) {
    uint64_t lane;
    std::memcpy(&lane, text, 8);
    return lane;
  };
  const auto after_first = [&](uint64_t lane) { return rotate((p5 + 16) ^ round(lane), 27) * p1 + p4; };
  const std::string one = "the door is open";
  const uint64_t meet = after_first(load(one.data())) ^ round(load(one.data() + 8));
  for (uint64_t i = 0;; ++i) {
    const std::string half = absl::StrCat("x", 1'000'000 + i);
    const uint64_t lane = rotate((after_first(load(half.data())) ^ meet) * inverse(p1), 64 - 31) * inverse(p2);
    std::string other = half + std::string(reinterpret_cast<const char*>(&lane), 8);
    bool printable = true;
    for (unsigned char c : other) printable &= c > 32 && c < 127;
    if (printable) return {one, other};
  }
}

TEST(CaptionBook, KeepsTheFirstOfTwoTextsWithOneId) {
  const auto [one, other] = CollidingTexts();
  ASSERT_NE(one, other);
  ASSERT_EQ(CaptionId(one), CaptionId(other));
  CaptionBook book;
  EXPECT_EQ(book.SetText(CaptionId(one), one, ""), CaptionBook::TextOutcome::kNew);
  EXPECT_EQ(book.SetText(CaptionId(one), other, ""), CaptionBook::TextOutcome::kCollision);
  EXPECT_EQ(book.Find(CaptionId(one))->text, one);
}

TEST(Retrieval, ScoresTheMeanOverAnswersAndNothingElse) {
  v1::Experiment experiment;
  experiment.mutable_reward_model()->set_threshold(0.25);
  FillDefaults(&experiment);
  Retrieval retrieval(experiment.reward_model());
  EXPECT_FLOAT_EQ(retrieval.transform().threshold(), 0.25);
  EXPECT_FLOAT_EQ(retrieval.transform().mean(), 0);
  EXPECT_FLOAT_EQ(retrieval.transform().deviation(), 1);
  EXPECT_TRUE(retrieval.transform().binary());
  Caption twice, never, unanswered;
  twice.answers = 2;
  twice.good_sum = 1.5;
  unanswered.unanswered = 3;
  const std::vector<const Caption*> captions = {&twice, &never, &unanswered};
  std::vector<std::optional<float>> scores(3);
  retrieval.Score(captions, absl::MakeSpan(scores));
  EXPECT_THAT(scores, ElementsAre(0.75f, std::nullopt, std::nullopt));
}

}  // namespace
}  // namespace sibyl::reward_model
