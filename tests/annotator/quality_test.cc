// How far labels can be trusted: the statistics, what an annotator counts of its answers, and votes.

#include "annotator/quality/quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "annotator/judges/votes.h"
#include "annotator/quality/agreement.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Statistics, AreTheTextbooks) {
  EXPECT_DOUBLE_EQ(AreaUnderCurve({0.9, 0.5}, {0.1, 0.5}), 3.5 / 4);
  EXPECT_TRUE(std::isnan(AreaUnderCurve({}, {0.1})));
  const Interval share = Share(8, 10);
  EXPECT_DOUBLE_EQ(share.value, 0.8);
  EXPECT_NEAR(share.low, 0.490, 0.001);  // Wilson 1927, as in Agresti & Coull's tables
  EXPECT_NEAR(share.high, 0.943, 0.001);
  Agreement agreement;
  for (int i = 0; i < 20; ++i) agreement.Add("yes", "yes");
  for (int i = 0; i < 5; ++i) agreement.Add("yes", "no");
  for (int i = 0; i < 10; ++i) agreement.Add("no", "yes");
  for (int i = 0; i < 15; ++i) agreement.Add("no", "no");
  EXPECT_NEAR(agreement.Kappa(), 0.4, 1e-9);  // Cohen's example
}

TEST(Statistics, CalibrationErrorIsTheMeanGapOfTheBins) {
  EXPECT_TRUE(std::isnan(CalibrationError({}, {})));
  EXPECT_NEAR(CalibrationError({1, 1}, {0}), 0, 1e-12);
  EXPECT_NEAR(CalibrationError({0}, {1}), 1, 1e-12);
  // One bin: of four that were given 0.75, three are good.
  EXPECT_NEAR(CalibrationError({0.75, 0.75, 0.75}, {0.75}), 0, 1e-12);
  // Two bins: |0.2 - 0| of one, and |0.95 - 0.5| of two.
  EXPECT_NEAR(CalibrationError({0.95}, {0.95, 0.25}), (0.25 + 2 * 0.45) / 3, 1e-12);
}

v1::Label Answered(const v1::Query& query, std::vector<float> distribution) {
  v1::Label label;
  *label.mutable_query() = query;
  label.set_outcome(v1::OUTCOME_ANSWERED);
  *label.mutable_answer()->mutable_choice()->mutable_distribution() = {distribution.begin(), distribution.end()};
  return label;
}

class QualityTest : public ::testing::Test {
 protected:
  std::string Text() { return metrics_.Text(); }
  testing::Matcher<std::string> Says(const std::string& series, double value) {
    return HasSubstr(absl::StrCat(series, " ", value, "\n"));
  }
  Metrics metrics_;
};

TEST_F(QualityTest, AnswersToTheSameQuestionAreCompared) {
  Quality quality({}, metrics_);
  quality.OnLabel(Answered(Classify("a key"), {0.2, 0.8}), "m1");
  quality.OnLabel(Answered(Classify("a wall"), {0.2, 0.8}), "m1");
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="yes",with="itself"})", 0));
  quality.OnLabel(Answered(Classify("a key"), {0.4, 0.6}), "m1");
  quality.OnLabel(Answered(Classify("a key"), {0.6, 0.4}), "m1");
  quality.OnLabel(Answered(Classify("a key"), {0.6, 0.4}), "m2");
  quality.OnLabel(Answered(Classify("a key", "another goal"), {0.2, 0.8}), "m2");
  v1::Label failed = Answered(Classify("a key"), {});
  failed.set_outcome(v1::OUTCOME_FAILED);
  quality.OnLabel(failed, "m2");
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="yes",with="itself"})", 1));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="no",with="itself"})", 1));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="yes",with="earlier_model"})", 1));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="no",with="earlier_model"})", 0));
}

TEST_F(QualityTest, PairsAreComparedInBothOrders) {
  Quality quality({}, metrics_);
  quality.OnLabel(Answered(Compare("a", "b"), {0.9, 0.1, 0}), "");
  quality.OnLabel(Answered(Compare("b", "a"), {0.1, 0.9, 0}), "");  // a again
  quality.OnLabel(Answered(Compare("c", "d"), {0.9, 0.1, 0}), "");
  quality.OnLabel(Answered(Compare("d", "c"), {0.9, 0.1, 0}), "");  // now d
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="yes",with="order"})", 1));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="no",with="order"})", 1));
}

TEST_F(QualityTest, GoldCaptionsCountOnceEachUnderTheirGoal) {
  Quality quality({{"find the ball", "a key", GoldItem::kGood}, {"find the ball", "a wall", GoldItem::kBad}}, metrics_);
  quality.OnLabel(Answered(Classify("a key", "another goal"), {1, 0}), "");
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_gold_captions{right="no"})", 0));
  quality.OnLabel(Answered(Classify("a key"), {0.7, 0.3}), "");
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_gold_captions{right="no"})", 1));
  quality.OnLabel(Answered(Classify("a key"), {0.3, 0.7}), "");
  quality.OnKnown(Classify("a wall"), Answered(Classify("a wall"), {0.6, 0.4}).answer());
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_gold_captions{right="yes"})", 2));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_gold_captions{right="no"})", 0));
  EXPECT_THAT(Text(), Says("sibyl_annotator_gold_auc", 1));
  EXPECT_THAT(Text(), HasSubstr("sibyl_annotator_gold_calibration_error 0.3"));
}

TEST_F(QualityTest, VotesAreHeldAgainstTheirLabel) {
  Quality quality({}, metrics_);
  v1::Label label = Answered(Classify("a key"), {0.25, 0.75});
  label.mutable_answer()->mutable_choice()->add_votes(1);
  label.mutable_answer()->mutable_choice()->add_votes(3);
  quality.OnLabel(label, "");
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="yes",with="votes"})", 3));
  EXPECT_THAT(Text(), Says(R"(sibyl_annotator_comparisons_total{agrees="no",with="votes"})", 1));
}

Verdict Vote(std::vector<float> distribution, uint64_t tokens) {
  Verdict vote;
  vote.outcome = v1::OUTCOME_ANSWERED;
  *vote.answer.mutable_choice()->mutable_distribution() = {distribution.begin(), distribution.end()};
  vote.raw = absl::StrCat("said ", tokens);
  vote.prompt_tokens = tokens;
  return vote;
}
Verdict NoVote(v1::Outcome outcome, const std::string& reason) {
  Verdict vote;
  vote.outcome = outcome;
  vote.reason = reason;
  return vote;
}

TEST(Votes, ALabelIsTheirMean) {
  const Verdict merged =
      MergeVotes({Vote({0.2, 0.8}, 10), NoVote(v1::OUTCOME_UNPARSABLE, "no label"), Vote({0.6, 0.4}, 30)});
  EXPECT_EQ(merged.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_THAT(Distribution(merged.answer), ElementsAre(FloatNear(0.4, 1e-6), FloatNear(0.6, 1e-6)));
  EXPECT_THAT(merged.answer.choice().votes(), ElementsAre(1, 1));
  EXPECT_EQ(merged.prompt_tokens, 30u) << "of all votes, which the last one has";
  EXPECT_EQ(merged.raw, "[vote 1]\nsaid 10\n[vote 2]\n\n[vote 3]\nsaid 30");
}

TEST(Votes, HalfOfThemWithoutAnAnswerIsNoAnswer) {
  const Verdict merged = MergeVotes(
      {Vote({0, 1}, 1), NoVote(v1::OUTCOME_ABSTAINED, ""), Vote({0, 1}, 2), NoVote(v1::OUTCOME_UNPARSABLE, "cut")});
  EXPECT_EQ(merged.outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(merged.reason, "2 of 4 votes name an answer");
  EXPECT_EQ(MergeVotes({NoVote(v1::OUTCOME_ABSTAINED, ""), NoVote(v1::OUTCOME_UNPARSABLE, "cut"),
                        NoVote(v1::OUTCOME_UNPARSABLE, "cut")})
                .reason,
            "0 of 3 votes name an answer; cut");
}

TEST(Votes, OfTextsTheMostFrequentWins) {
  const auto text = [](const std::string& said) {
    Verdict vote = NoVote(v1::OUTCOME_ANSWERED, "");
    vote.answer.set_text(said);
    return vote;
  };
  EXPECT_EQ(MergeVotes({text("a"), text("b"), text("b")}).answer.text(), "b");
  EXPECT_EQ(MergeVotes({text("a"), text("b")}).answer.text(), "a");
}

}  // namespace
}  // namespace sibyl::annotator
