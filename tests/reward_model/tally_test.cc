// What the judge said: comparisons, and labels summed up by caption.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reward_model/tally/comparisons.h"
#include "reward_model/tally/tallies.h"

namespace sibyl::reward_model {
namespace {

TEST(Comparisons, CountsPairsInBothOrdersAndFlips) {
  Comparisons comparisons(10);
  comparisons.Add({1, 2}, {true, 1});
  comparisons.Add({2, 1}, {true, 1});  // the first place again
  comparisons.Add({1, 3}, {true, 0});
  comparisons.Add({3, 1}, {true, 0.8});
  comparisons.Add({2, 3}, {false, 0});
  comparisons.Add({3, 2}, {true, 1});
  EXPECT_EQ(comparisons.both_orders(), 2u);
  EXPECT_EQ(comparisons.flips(), 1u);
  EXPECT_TRUE(comparisons.Has(3, 2));
  EXPECT_FALSE(comparisons.Has(1, 4));
}

TEST(Comparisons, AnAnswerTakesThePlaceOfAnAttemptWithoutOne) {
  Comparisons comparisons(10);
  comparisons.Add({1, 2}, {false, 0});
  comparisons.Add({2, 1}, {true, 1});
  EXPECT_EQ(comparisons.both_orders(), 0u);
  comparisons.Add({1, 2}, {true, 1});
  EXPECT_EQ(comparisons.size(), 2u);
  EXPECT_EQ(comparisons.both_orders(), 1u);
  EXPECT_EQ(comparisons.flips(), 1u);
  EXPECT_TRUE(comparisons.Find({1, 2})->answered);
}

TEST(Comparisons, ForgetsTheOldestBeyondItsCapacity) {
  Comparisons comparisons(2);
  comparisons.Add({1, 2}, {true, 1});
  comparisons.Add({2, 1}, {true, 1});
  EXPECT_EQ(comparisons.flips(), 1u);
  comparisons.Add({3, 4}, {true, 0.25});
  EXPECT_EQ(comparisons.size(), 2u);
  EXPECT_EQ(comparisons.forgotten(), 1u);
  EXPECT_EQ(comparisons.Find({1, 2}), nullptr);
  EXPECT_EQ(comparisons.both_orders(), 0u) << "the other order is left alone";
  EXPECT_EQ(comparisons.flips(), 0u);
  EXPECT_EQ(comparisons.Find({3, 4})->first_better, 0.25);
  comparisons.Clear();
  EXPECT_EQ(comparisons.Find({3, 4}), nullptr);
}

TEST(Comparisons, EachIsSavedOnceAndAgainWhenItIsReplaced) {
  Comparisons comparisons(3);
  comparisons.Add({1, 2}, {false, 0});
  comparisons.Add({3, 4}, {true, 1});
  EXPECT_EQ(comparisons.TakeUnsaved()->pair, OrderedPair(1, 2));
  EXPECT_EQ(comparisons.TakeUnsaved()->pair, OrderedPair(3, 4));
  EXPECT_EQ(comparisons.TakeUnsaved(), nullptr);
  comparisons.Add({1, 2}, {true, 1});
  comparisons.Add({5, 6}, {true, 1});
  EXPECT_TRUE(comparisons.TakeUnsaved()->comparison.answered);
  EXPECT_EQ(comparisons.TakeUnsaved()->pair, OrderedPair(5, 6));
  EXPECT_EQ(comparisons.TakeUnsaved(), nullptr);
  // Replaced, and forgotten before it was saved.
  comparisons.Add({1, 2}, {true, 0});
  comparisons.Add({7, 8}, {true, 0});
  EXPECT_EQ(comparisons.TakeUnsaved()->pair, OrderedPair(7, 8));
  EXPECT_EQ(comparisons.TakeUnsaved(), nullptr);
  comparisons.BeginFile();
  EXPECT_EQ(comparisons.TakeUnsaved()->pair, OrderedPair(3, 4));
}

v1::DescribeResponse Annotator(const std::string& judge, uint64_t labels) {
  v1::DescribeResponse annotator;
  annotator.set_judge(judge);
  annotator.set_labels(labels);
  return annotator;
}

TEST(Tallies, SumsUpLabelsByCaption) {
  Tallies tallies;
  tallies.Add(1, {true, 0.75});
  tallies.Add(1, {true, 0.25});
  tallies.Add(1, {false, 0});
  tallies.Add(2, {false, 0});
  EXPECT_EQ(tallies.Of(1).answers, 2u);
  EXPECT_EQ(tallies.Of(1).good_sum, 1);
  EXPECT_EQ(tallies.Of(1).labels(), 3u);
  EXPECT_EQ(tallies.Of(3).labels(), 0u);
  EXPECT_EQ(tallies.captions_labelled(), 1u);
  EXPECT_EQ(tallies.labels_without_answer(), 2u);
  tallies.Forget(1);
  EXPECT_FALSE(tallies.IsLabelled(1));
  EXPECT_EQ(tallies.captions_labelled(), 0u);
  EXPECT_EQ(tallies.labels_without_answer(), 1u);
}

TEST(Tallies, AnEarlyLabelCountsOnceAndIsLeftToTheLogInACheckpoint) {
  Tallies tallies;
  tallies.AddEarly(1, 5, {true, 0.5});
  EXPECT_EQ(tallies.Of(1).answers, 1u);
  EXPECT_EQ(tallies.Settled(1).answers, 0u);
  EXPECT_FALSE(tallies.SettleEarly(1, 4)) << "another label";
  tallies.SetNextSequence(6);
  EXPECT_TRUE(tallies.SettleEarly(1, 5));
  EXPECT_EQ(tallies.Of(1).answers, 1u);
  EXPECT_EQ(tallies.Settled(1).answers, 1u);
  EXPECT_EQ(tallies.Settled(1).good_sum, 0.5);
  EXPECT_FALSE(tallies.SettleEarly(1, 5));
  EXPECT_EQ(tallies.captions_labelled(), 1u);
}

TEST(Tallies, AnotherLogsLabelsReplaceOlderOnesCaptionByCaption) {
  Tallies tallies;
  EXPECT_EQ(tallies.Follow(Annotator("j", 0)), Tallies::Log::kOtherJudge);
  tallies.Add(1, {true, 1});
  tallies.Add(2, {true, 1});
  tallies.SetNextSequence(3);
  EXPECT_EQ(tallies.Follow(Annotator("j", 2)), Tallies::Log::kSame);
  EXPECT_FALSE(tallies.IsSuperseded(1));
  EXPECT_EQ(tallies.Follow(Annotator("j", 1)), Tallies::Log::kAnother);
  EXPECT_EQ(tallies.next_sequence(), 1u);
  EXPECT_TRUE(tallies.IsSuperseded(1));
  tallies.Add(1, {true, 0});
  EXPECT_EQ(tallies.Of(1).answers, 1u);
  EXPECT_EQ(tallies.Of(1).good_sum, 0);
  EXPECT_EQ(tallies.Of(2).answers, 1u) << "kept until the new log has a label";
  tallies.AddEarly(2, 9, {true, 0.25});
  EXPECT_EQ(tallies.Of(2).good_sum, 0.25);
  EXPECT_EQ(tallies.captions_labelled(), 2u);
}

TEST(Tallies, LabelsOfAnotherJudgeAreDropped) {
  Tallies tallies;
  tallies.Follow(Annotator("j", 0));
  tallies.Add(1, {true, 1});
  tallies.AddEarly(2, 7, {true, 1});
  tallies.SetNextSequence(2);
  EXPECT_EQ(tallies.Follow(Annotator("k", 9)), Tallies::Log::kOtherJudge);
  EXPECT_EQ(tallies.judge(), "k");
  EXPECT_EQ(tallies.next_sequence(), 1u);
  EXPECT_EQ(tallies.Of(1).labels() + tallies.Of(2).labels(), 0u);
  EXPECT_EQ(tallies.captions_labelled(), 0u);
  v1::Label label;
  label.set_judge("j");
  EXPECT_FALSE(tallies.IsOfThisJudge(label));
}

TEST(Tallies, ComeBackFromACheckpoint) {
  Tallies tallies;
  tallies.Restore(1, {1, 1, 0}, /*log=*/7);
  tallies.Restore(1, {2, 1.5, 1}, /*log=*/7);
  tallies.Restore(2, {1, 1, 0}, /*log=*/6);
  tallies.Restore(3, {}, /*log=*/7);
  tallies.RestoreLog("j", "p", "log", 0, /*log=*/7);
  EXPECT_EQ(tallies.next_sequence(), 1u);
  EXPECT_FALSE(tallies.IsSuperseded(1));
  EXPECT_TRUE(tallies.IsSuperseded(2));
  EXPECT_EQ(tallies.size(), 2u);
  EXPECT_EQ(tallies.captions_labelled(), 2u);
  EXPECT_EQ(tallies.labels_without_answer(), 1u);
  tallies.Add(2, {true, 0});
  EXPECT_EQ(tallies.Of(2).answers, 1u) << "the lost log's label is replaced";
}

}  // namespace
}  // namespace sibyl::reward_model
