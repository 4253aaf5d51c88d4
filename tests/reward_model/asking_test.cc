// What to ask: the candidates, and the asker that chooses among them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/caption.h"
#include "common/config.h"
#include "common/runtime/clock.h"
#include "reward_model/asking/asker.h"
#include "reward_model/asking/candidates.h"
#include "reward_model/questions.h"

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

// --- Asker ---

class NoModel : public ScoreModel {
 public:
  std::string kind() const override { return "none"; }
  void Observe(const Caption&, const Tally&, uint32_t) override {}
  void ObserveComparison(const Caption&, const Caption&, double) override {}
  void Restart() override {}
  void Forget(uint64_t) override {}
  void Score(absl::Span<const Caption* const>, absl::Span<std::optional<float>>) override {}
  v1::RewardTransform transform() const override { return {}; }
  uint64_t score_version() const override { return 0; }
  double Uncertainty(const Caption& caption, const Caption*) const override {
    return caption.id == unsure_of ? std::numeric_limits<double>::infinity() : 0;
  }

  uint64_t unsure_of = 0;
};

class AskerTest : public ::testing::Test {
 protected:
  AskerTest() {
    experiment_.mutable_environment()->set_name("minigrid/Empty-5x5");
    experiment_.mutable_reward_model()->set_goal("open doors");
    experiment_.mutable_annotator()->set_rules_file("/rules");
    FillDefaults(&experiment_);
  }
  std::unique_ptr<Asker> Make() {
    auto asker = std::make_unique<Asker>(experiment_.reward_model(),
                                         Asker::Knowledge{captions_, tallies_, comparisons_, model_}, 1, clock_);
    asker->Connect();
    return asker;
  }
  const Caption& Seen(const std::string& text, uint64_t count) {
    captions_.SetText(CaptionId(text), text, "");
    Caption& caption = *captions_.Find(CaptionId(text));
    captions_.SetLearnerCount(caption, count, 0);
    return caption;
  }
  // Texts that the next questions are about.
  static std::vector<std::string> Take(Asker& asker) {
    std::vector<std::string> texts;
    const Questions questions = asker.Take();
    for (const v1::Query& query : questions.request.queries()) {
      for (const std::string& text : Captions(query)) texts.push_back(text);
    }
    return texts;
  }

  v1::Experiment experiment_;
  CaptionBook captions_;
  Tallies tallies_;
  Comparisons comparisons_{100};
  NoModel model_;
  FakeClock clock_;
};

TEST_F(AskerTest, ACaptionWaitsForItsLabelAndIsThenAskedNoMore) {
  auto asker = Make();
  const Caption& door = Seen("a door", 1);
  EXPECT_TRUE(asker->Offer(door));
  EXPECT_TRUE(asker->HasQuestions());
  EXPECT_THAT(Take(*asker), ElementsAre("a door"));
  EXPECT_TRUE(asker->IsWaiting(door.id));
  EXPECT_EQ(asker->outstanding(), 1u);
  EXPECT_FALSE(asker->Offer(door)) << "it waits";
  tallies_.Add(door.id, {true, 1});
  asker->Release({door.id, 0});
  asker->OnLabel(door);
  EXPECT_FALSE(asker->IsWaiting(door.id));
  EXPECT_FALSE(asker->Offer(door)) << "it has its label";
  EXPECT_FALSE(asker->HasQuestions());
}

TEST_F(AskerTest, WhatWaitedOnALostConnectionIsACandidateAgain) {
  auto asker = Make();
  asker->Offer(Seen("a door", 1));
  const Questions before = asker->Take();
  asker->Disconnect();
  EXPECT_FALSE(asker->HasQuestions());
  asker->Connect();
  EXPECT_FALSE(asker->IsCurrent(before));
  EXPECT_THAT(Take(*asker), ElementsAre("a door"));
}

TEST_F(AskerTest, OffersOneQueryASecondToAFullAnnotator) {
  auto asker = Make();
  for (const char* text : {"a", "b", "c"}) asker->Offer(Seen(text, 1));
  asker->SetRoom(0, /*full=*/true);
  EXPECT_FALSE(asker->HasQuestions());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Take(*asker).size(), 1u);
  asker->SetRoom(1, /*full=*/false);
  EXPECT_EQ(Take(*asker).size(), 1u);
  asker->SetRoom(0, /*full=*/false);
  asker->AddRoom();
  EXPECT_EQ(Take(*asker).size(), 1u);
}

TEST_F(AskerTest, ARefusedCaptionIsNotAskedAboutUntilTheJudgeChanges) {
  auto asker = Make();
  const Caption& door = Seen("a door", 1);
  asker->Offer(door);
  asker->SetAsked(door.id);
  asker->Refuse(door.id);
  EXPECT_FALSE(asker->Offer(door));
  EXPECT_EQ(asker->candidates(), 0u);
  EXPECT_EQ(asker->captions_asked(), 1u);
  asker->ForgetAll();
  EXPECT_EQ(asker->captions_asked(), 0u);
  EXPECT_TRUE(asker->Offer(door));
}

TEST_F(AskerTest, AForgottenCaptionLeavesNothingBehind) {
  auto asker = Make();
  const Caption& door = Seen("a door", 1);
  asker->Offer(door);
  asker->SetAsked(door.id);
  asker->Forget(door.id);
  EXPECT_EQ(asker->captions_asked(), 0u);
  EXPECT_EQ(asker->candidates(), 0u);
  EXPECT_FALSE(asker->IsAsked(door.id));
}

TEST_F(AskerTest, AsksFirstWhereTheModelIsUnsureIfToldTo) {
  experiment_.mutable_reward_model()->mutable_training()->set_ask_unsure(true);
  model_.unsure_of = CaptionId("b");
  auto asker = Make();
  for (const auto& [text, count] : {std::pair("a", 100), {"b", 20}, {"c", 1000}}) asker->Offer(Seen(text, count));
  EXPECT_THAT(Take(*asker), ElementsAre("c", "b", "a")) << "16 times 20 is more than 100 and less than 1000";
}

TEST_F(AskerTest, ComparesNoCaptionWithItselfNorAPairTwice) {
  experiment_.mutable_reward_model()->set_kind(v1::REWARD_MODEL_KIND_RANKING);
  experiment_.mutable_reward_model()->mutable_pairs()->set_comparisons(5);
  auto asker = Make();
  const Caption& a = Seen("a", 1);
  asker->Offer(a);
  EXPECT_THAT(Take(*asker), IsEmpty());
  Seen("b", 1);
  asker->Offer(a);
  const Questions questions = asker->Take();
  ASSERT_EQ(questions.request.queries_size(), 1);
  comparisons_.Add(SubjectOf(questions.request.queries(0)), {});
  asker->Release(SubjectOf(questions.request.queries(0)));
  EXPECT_THAT(Take(*asker), IsEmpty());
}

}  // namespace
}  // namespace sibyl::reward_model
