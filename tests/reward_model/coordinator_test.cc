// The stage without its wires, with an annotator and a learner in memory and a clock that stands still.

#include "reward_model/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/metrics.h"
#include "common/random.h"
#include "reward_model/annotator_link.h"
#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class CoordinatorTest : public ::testing::Test {
 protected:
  std::unique_ptr<Coordinator> Make(uint64_t incarnation = 100) {
    metrics_ = std::make_unique<Metrics>();
    return std::make_unique<Coordinator>(experiment_, std::make_unique<Retrieval>(experiment_.reward_model()),
                                         incarnation, clock_, *metrics_);
  }
  // Reads the log to its end and asks what is to be asked.
  void Work(Coordinator& model) {
    EXPECT_EQ(FollowOnce(model, annotator_).code(), absl::StatusCode::kUnavailable);
    AskNow(model);
  }
  // FollowOnce ends with the connection; asking goes on as if there still was one.
  int AskNow(Coordinator& model) {
    model.ConnectAnnotator(*annotator_.Describe());
    int asked = 0;
    while (true) {
      const int more = AskOnce(model, annotator_).value_or(0);
      if (more == 0) return asked;
      asked += more;
    }
  }
  double Metric(const std::string& name) {
    const std::string text = "\n" + metrics_->Text();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }

  v1::Experiment experiment_ = TestExperiment();
  FakeClock clock_;
  FakeAnnotator annotator_;
  std::unique_ptr<Metrics> metrics_;
};

TEST_F(CoordinatorTest, ALabelBecomesAScore) {
  auto model = Make();
  ConnectedLearner learner(*model);
  EXPECT_EQ(learner.table.snapshots_, 1) << "an empty one";
  learner.SeeAndTell("You open the door.");
  Work(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("You open the door."));
  const v1::Query query = annotator_.accepted().front();
  EXPECT_EQ(query.kind(), "classify");
  EXPECT_EQ(query.goal(), "open doors");
  EXPECT_THAT(query.grammar().choice().labels(), ElementsAre("unhelpful", "helpful"));
  EXPECT_EQ(ContextOf(query), "") << "send_context is off";
  annotator_.Answer("You open the door.", 0.875);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("You open the door."), 0.875);
  EXPECT_EQ(learner.table.version_, 1);
  EXPECT_FLOAT_EQ(learner.table.transform_.threshold(), 0.5);
  EXPECT_FLOAT_EQ(learner.table.transform_.deviation(), 1);
  EXPECT_TRUE(learner.table.transform_.binary());
  EXPECT_FALSE(learner.table.gaps_);
}

TEST_F(CoordinatorTest, AsksTheMostUrgentFirst) {
  experiment_.mutable_reward_model()->set_queue_target(2);
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.See("seldom", 2);
  learner.See("often", 50);
  learner.See("sometimes", 10);
  learner.See("once", 1);
  learner.SeeAndTell("always", 500);
  AskNow(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("always", "often"));
  EXPECT_GT(annotator_.accepted()[0].priority(), annotator_.accepted()[1].priority());
  annotator_.Answer("always", 0);
  annotator_.Answer("often", 0);
  Work(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("always", "often", "sometimes", "seldom"));
}

TEST_F(CoordinatorTest, NeutralCaptionsAreAskedFirstAndNothingIsPaidBeforeTheirLabels) {
  experiment_.mutable_reward_model()->set_threshold_kind(v1::THRESHOLD_KIND_NEUTRAL);
  experiment_.mutable_reward_model()->set_threshold(0);
  experiment_.mutable_reward_model()->set_ask_after(5);
  auto model = Make();
  FakeLearner learner(*model);
  ASSERT_TRUE(learner.Connect().ok());
  learner.See("You open the door.", 1000);
  learner.SeeAndTell("You wait.", 1000);
  AskNow(*model);
  std::vector<std::string> asked = annotator_.accepted_captions();
  ASSERT_THAT(asked, SizeIs(5));
  asked.resize(3);
  EXPECT_THAT(asked, UnorderedElementsAre("N/A", "Nothing happens.", "Something happens."));
  EXPECT_GT(annotator_.accepted()[2].priority(), annotator_.accepted()[3].priority());
  annotator_.Answer("You open the door.", 0.3);
  annotator_.Answer("You wait.", 0.2);
  Work(*model);
  model->Tick();
  EXPECT_EQ(learner.table.transform_.threshold(), 1);
  for (const char* neutral : {"N/A", "Nothing happens.", "Something happens."}) annotator_.Answer(neutral, 0.25);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.transform_.threshold(), 0.25);
  EXPECT_FLOAT_EQ(learner.table.Of("You open the door."), 0.3f);
  EXPECT_EQ(learner.table.scores_.size(), 2u) << "a caption that nobody has seen is nothing to the learner";

  // The threshold is there again after a restart.
  auto again = Make(101);
  ASSERT_TRUE(Restore(*again, Checkpoint(*model)).ok());
  FakeLearner other(*again);
  ASSERT_TRUE(other.Connect().ok());
  EXPECT_FLOAT_EQ(other.table.transform_.threshold(), 0.25);
}

TEST_F(CoordinatorTest, NeverAsksTheEmptyCaptionNorOneWithoutText) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.See("", 1000);
  learner.See("a door", 1);
  ASSERT_TRUE(learner.Offer().ok());
  model->Tick();
  EXPECT_THAT(learner.output->TextsRequested(), ElementsAre(CaptionId("a door")));
  EXPECT_EQ(AskNow(*model), 0);
  learner.SendTexts();
  EXPECT_EQ(AskNow(*model), 1);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("a door"));
}

TEST_F(CoordinatorTest, NeverAsksTheSameCaptionTwice) {
  auto model = Make();
  ConnectedLearner learner(*model);
  model->ConnectAnnotator(*annotator_.Describe());
  for (int i = 0; i < 10; ++i) {
    learner.SeeAndTell("a door", 10, i);
    EXPECT_EQ(AskOnce(*model, annotator_).value(), i == 0 ? 1 : 0);
  }
  annotator_.Answer("a door", v1::OUTCOME_FAILED);
  Work(*model);
  learner.SeeAndTell("a door", 10, 10);
  EXPECT_EQ(AskNow(*model), 0);
  EXPECT_EQ(Metric("sibyl_reward_model_queries_total{outcome=\"accepted\"}"), 1);
  EXPECT_EQ(Metric("sibyl_reward_model_queries_total{outcome=\"duplicate\"}"), 0);
}

TEST_F(CoordinatorTest, KeepsTheAnnotatorsQueueShallow) {
  experiment_.mutable_reward_model()->set_queue_target(8);
  auto model = Make();
  ConnectedLearner learner(*model);
  for (int i = 0; i < 100; ++i) learner.See(absl::StrCat("caption ", i), i + 1);
  learner.SeeAndTell("last");
  EXPECT_EQ(AskNow(*model), 8);
  annotator_.Answer("caption 99", 1);
  annotator_.Answer("caption 98", 1);
  model->OnLabels({});
  EXPECT_EQ(annotator_.Describe()->waiting(), 6);
  Work(*model);
  EXPECT_EQ(annotator_.Describe()->waiting(), 8);
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_queries_outstanding"), 8);
}

TEST_F(CoordinatorTest, AFullAnnotatorIsOfferedOneQueryASecond) {
  FakeAnnotator small(2);
  auto model = Make();
  ConnectedLearner learner(*model);
  for (int i = 1; i <= 9; ++i) learner.See(absl::StrCat("caption ", i), i);
  learner.SeeAndTell("one more", 1);
  model->ConnectAnnotator(*small.Describe());
  EXPECT_EQ(AskOnce(*model, small).value(), 10);
  EXPECT_THAT(small.accepted_captions(), ElementsAre("caption 9", "caption 8"));
  EXPECT_EQ(AskOnce(*model, small).value(), 0);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(AskOnce(*model, small).value(), 1);
  EXPECT_EQ(AskOnce(*model, small).value(), 0);
  small.Answer("caption 9", 1);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(AskOnce(*model, small).value(), 1) << "what was refused is not lost";
  EXPECT_THAT(small.accepted_captions(), ElementsAre("caption 9", "caption 8", "caption 7"));
}

TEST_F(CoordinatorTest, DropsTheLeastUrgentCandidateAndTakesItBackWhenSeenAgain) {
  experiment_.mutable_reward_model()->set_max_candidates(2);
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.See("common", 100);
  learner.See("usual", 50);
  learner.SeeAndTell("rare", 1);
  EXPECT_EQ(Metric("sibyl_reward_model_candidates"), 2);
  EXPECT_EQ(Metric("sibyl_reward_model_candidates_dropped_total"), 1);
  auto taken = model->TakeQuestions();
  EXPECT_THAT(taken.request.queries(), IsEmpty()) << "nobody to ask";
  learner.SeeAndTell("rare", 1000);
  AskNow(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("rare", "common"));
}

TEST_F(CoordinatorTest, OneUnacceptableQueryHarmsNoOther) {
  auto model = Make();
  annotator_.SetUnacceptable("far too long");
  ConnectedLearner learner(*model);
  learner.See("a");
  learner.See("b");
  learner.SeeAndTell("far too long", 100);
  EXPECT_EQ(AskNow(*model), 3);
  EXPECT_THAT(annotator_.accepted_captions(), UnorderedElementsAre("a", "b"));
  learner.SeeAndTell("far too long", 100);
  EXPECT_EQ(AskNow(*model), 2) << "the other two, whose labels have not come";
  EXPECT_EQ(Metric("sibyl_reward_model_queries_total{outcome=\"refused\"}"), 1);
}

TEST_F(CoordinatorTest, OnlyAnswersMakeAScore) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"abstained", "unparsable", "failed"}) learner.SeeAndTell(caption);
  annotator_.Answer("abstained", v1::OUTCOME_ABSTAINED);
  annotator_.Answer("unparsable", v1::OUTCOME_UNPARSABLE);
  annotator_.Answer("failed", v1::OUTCOME_FAILED);
  Work(*model);
  clock_.Advance(absl::Seconds(1));
  model->Tick();
  EXPECT_THAT(learner.table.scores_, IsEmpty());
  EXPECT_EQ(learner.output->messages.back().progress().labels_without_answer(), 3);
  EXPECT_EQ(learner.output->messages.back().progress().captions_labelled(), 0);
  EXPECT_THAT(annotator_.accepted(), IsEmpty()) << "they have their outcome";
  for (const char* outcome : {"abstained", "unparsable", "failed"}) {
    EXPECT_EQ(Metric(absl::StrCat("sibyl_reward_model_labels_total{outcome=\"", outcome, "\"}")), 1);
  }
}

TEST_F(CoordinatorTest, AveragesSeveralLabelsOfACaption) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a door");
  annotator_.Answer("a door", 1.0);
  annotator_.Answer("a door", v1::OUTCOME_ABSTAINED);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a door"), 1.0);
  annotator_.AnswerWithContext("a door", "at night", 0.25);
  annotator_.AnswerWithContext("a door", "by day", 0.25);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a door"), 0.5);
  EXPECT_EQ(learner.table.version_, 3);
}

TEST_F(CoordinatorTest, AsksOnceACaptionWasSeenSoOften) {
  experiment_.mutable_reward_model()->set_ask_after(3);
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a door", 2);
  learner.SeeAndTell("a key", 3);
  EXPECT_EQ(AskNow(*model), 1);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("a key"));
  learner.SeeAndTell("a door");
  AskNow(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("a key", "a door"));
  // What was answered elsewhere counts, however rare it is here.
  annotator_.Answer("a box", 1);
  learner.SeeAndTell("a box");
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a box"), 1);
}

TEST_F(CoordinatorTest, SendsContextOnlyWhereTheConfigurationSaysSo) {
  experiment_.mutable_environment()->set_send_context(true);
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a door");
  AskNow(*model);
  EXPECT_EQ(ContextOf(annotator_.accepted().front()), "view of a door");
}

TEST_F(CoordinatorTest, AKnownAnswerIsUsedAtOnceAndCountsOnce) {
  annotator_.Answer("elsewhere", 0.5);
  annotator_.Answer("a door", 0.75);
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a door");
  EXPECT_EQ(AskNow(*model), 1) << "the log has not been read yet";
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a door"), 0.75);
  // A checkpoint from before the log gets there leaves the label to the log.
  const v1::RewardModelState checkpoint = Checkpoint(*model);
  EXPECT_EQ(checkpoint.next_sequence(), 1);
  EXPECT_EQ(checkpoint.captions(0).answers(), 0);
  Work(*model);
  model->Tick();
  EXPECT_EQ(Checkpoint(*model).captions(0).answers(), 1);

  auto again = Make(101);
  ASSERT_TRUE(Restore(*again, checkpoint).ok());
  Work(*again);
  EXPECT_EQ(Checkpoint(*again).captions(0).answers(), 1);
  EXPECT_EQ(Checkpoint(*again).next_sequence(), 3);
}

TEST_F(CoordinatorTest, LabelsOfAnotherQuestionAreIgnored) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a door");
  annotator_.SetGoal("collect gold");
  annotator_.Answer("a door", 1.0);
  Work(*model);
  model->Tick();
  EXPECT_EQ(learner.table.Of("a door"), -1);
  EXPECT_EQ(Metric("sibyl_reward_model_labels_ignored_total"), 1);
  EXPECT_EQ(annotator_.last_follow().goal(), "open doors");
  EXPECT_THAT(annotator_.last_follow().grammar().choice().labels(), ElementsAre("unhelpful", "helpful"));
  EXPECT_EQ(annotator_.last_follow().judge(), "rules:test@1");
}

TEST_F(CoordinatorTest, ACaptionLabelledBeforeItIsSeenIsPaidFromItsFirstSightOn) {
  annotator_.Answer("a door", 1.0);
  auto model = Make();
  Work(*model);
  ConnectedLearner learner(*model);
  EXPECT_THAT(learner.table.scores_, IsEmpty());
  learner.See("a door");
  ASSERT_TRUE(learner.Offer().ok());
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a door"), 1.0);
  EXPECT_THAT(learner.output->TextsRequested(), IsEmpty()) << "the label brought the text";
  EXPECT_EQ(AskNow(*model), 0);
}

TEST_F(CoordinatorTest, AReconnectedLearnerGetsExactlyWhatItMissed) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b", "c"}) learner.SeeAndTell(caption);
  annotator_.Answer("a", 0.25);
  Work(*model);
  model->Tick();

  learner.Lose();
  annotator_.Answer("b", 0.5);
  Work(*model);
  model->Tick();
  ASSERT_TRUE(learner.Connect().ok());
  model->Tick();
  ASSERT_THAT(learner.output->Scores(), SizeIs(1));
  EXPECT_THAT(learner.output->Scores()[0].id(), ElementsAre(CaptionId("b")));

  // Sent, and lost on the way.
  const ScoreTable before = learner.table;
  annotator_.Answer("c", 0.75);
  Work(*model);
  model->Tick();
  learner.table = before;
  ASSERT_TRUE(learner.Connect().ok());
  ASSERT_THAT(learner.output->Scores(), SizeIs(1));
  EXPECT_THAT(learner.output->Scores()[0].id(), ElementsAre(CaptionId("c")));
  EXPECT_EQ(learner.table.snapshots_, 1);
  EXPECT_FALSE(learner.table.gaps_);

  learner.Lose();
  ASSERT_TRUE(learner.Connect().ok());
  model->Tick();
  EXPECT_THAT(learner.output->Scores(), IsEmpty()) << "it missed nothing";
}

TEST_F(CoordinatorTest, ANewLearnerOrANewRewardModelMeansASnapshot) {
  auto model = Make();
  ConnectedLearner learner(*model, 1);
  learner.SeeAndTell("a");
  annotator_.Answer("a", 0.25);
  Work(*model);
  model->Tick();

  FakeLearner other(*model, 2);
  ASSERT_TRUE(other.Connect().ok());
  EXPECT_EQ(other.table.snapshots_, 1);
  EXPECT_FLOAT_EQ(other.table.Of("a"), 0.25);

  auto next = Make(101);
  ASSERT_TRUE(Restore(*next, Checkpoint(*model)).ok());
  other.ConnectTo(*next);
  other.table.scores_[99] = 1;
  ASSERT_TRUE(other.Connect().ok());
  EXPECT_EQ(other.table.snapshots_, 2);
  EXPECT_THAT(other.table.scores_, SizeIs(1)) << "the snapshot replaces the table";
  EXPECT_FALSE(other.table.gaps_);
}

TEST_F(CoordinatorTest, ALargeSnapshotComesInPartsThatShowTogether) {
  auto model = Make();
  ConnectedLearner learner(*model);
  const int captions = 2 * static_cast<int>(ScoreFeed::kRowsPerUpdate) + 1;
  for (int i = 0; i < captions; ++i) {
    learner.See(absl::StrCat(i));
    annotator_.Answer(absl::StrCat(i), 1);
  }
  ASSERT_TRUE(learner.Offer().ok());
  Work(*model);
  model->Tick();
  EXPECT_THAT(learner.table.scores_, SizeIs(captions));
  FakeLearner other(*model, 2);
  ASSERT_TRUE(other.Connect().ok());
  const auto parts = other.output->Scores();
  ASSERT_THAT(parts, SizeIs(3));
  EXPECT_TRUE(parts[0].reset() && parts[0].more() && !parts[1].reset() && parts[1].more() && !parts[2].more());
  EXPECT_THAT(other.table.scores_, SizeIs(captions));
  // One that has only a part of it starts over.
  other.table.last_sequence_ = parts[1].sequence();
  ASSERT_TRUE(other.Connect().ok());
  EXPECT_THAT(other.output->Scores(), SizeIs(3));
}

TEST_F(CoordinatorTest, ALearnerThatForgotACaptionGetsItsScoreAgain) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a", 10);
  annotator_.Answer("a", 0.25);
  Work(*model);
  model->Tick();
  learner.table.scores_.clear();
  v1::CaptionCounts counts;
  counts.add_id(CaptionId("a"));
  counts.add_count(1);
  counts.add_last_step(0);
  ASSERT_TRUE(model->OnCounts(learner.output.get(), counts).ok());
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  EXPECT_EQ(Checkpoint(*model).captions(0).count(), 11);
}

TEST_F(CoordinatorTest, ARestartedLearnerCountsNothingTwice) {
  auto model = Make();
  ConnectedLearner learner(*model, 1);
  learner.SeeAndTell("a", 10);
  ASSERT_TRUE(learner.Connect().ok());
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_EQ(Checkpoint(*model).captions(0).count(), 10);
  FakeLearner restarted(*model, 2);
  ASSERT_TRUE(restarted.Connect().ok());
  restarted.SeeAndTell("a", 3);
  ASSERT_TRUE(restarted.Connect().ok());
  EXPECT_EQ(Checkpoint(*model).captions(0).count(), 13);
}

TEST_F(CoordinatorTest, ARestartedRewardModelCountsNothingTwice) {
  auto model = Make();
  ConnectedLearner learner(*model, 1);
  learner.SeeAndTell("a", 10);
  FakeLearner second(*model, 2);
  ASSERT_TRUE(second.Connect().ok());
  second.SeeAndTell("a", 4);
  const v1::RewardModelState checkpoint = Checkpoint(*model);
  second.SeeAndTell("a", 5);  // lost with the process, but the learner knows
  model = Make(101);
  ASSERT_TRUE(Restore(*model, checkpoint).ok());
  second.ConnectTo(*model);
  ASSERT_TRUE(second.Connect().ok());
  EXPECT_EQ(Checkpoint(*model).captions(0).count(), 19);
  second.SeeAndTell("a", 1);
  EXPECT_EQ(Checkpoint(*model).captions(0).count(), 20);
}

TEST_F(CoordinatorTest, TellsItsProgressToALearnerThatHasJustCome) {
  auto model = Make();
  ConnectedLearner learner(*model, 1);
  learner.SeeAndTell("a", 10);
  annotator_.Answer("a", 0.25);
  Work(*model);
  FakeLearner next(*model, 2);
  ASSERT_TRUE(next.Connect().ok());
  v1::RewardModelProgress told;
  for (const auto& message : next.output->messages) {
    if (message.has_progress()) told = message.progress();
  }
  EXPECT_EQ(told.captions_asked(), 1) << "without waiting for a tick, as a resumed run may end at once";
  EXPECT_EQ(told.captions_labelled(), 1);
}

TEST_F(CoordinatorTest, GoesOnFromACheckpointAndReplaysTheLog) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b", "c", "d"}) learner.SeeAndTell(caption);
  Work(*model);
  annotator_.Answer("a", 0.25);
  Work(*model);
  const v1::RewardModelState checkpoint = Checkpoint(*model);
  annotator_.Answer("b", 0.5);
  Work(*model);  // read, and lost with the process
  annotator_.Answer("c", 0.75);

  model = Make(101);
  ASSERT_TRUE(Restore(*model, checkpoint).ok());
  learner.ConnectTo(*model);
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_THAT(learner.output->TextsRequested(), IsEmpty());
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  Work(*model);
  EXPECT_EQ(annotator_.last_follow().from_sequence(), 2);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  EXPECT_FLOAT_EQ(learner.table.Of("b"), 0.5);
  EXPECT_FLOAT_EQ(learner.table.Of("c"), 0.75);
  EXPECT_EQ(learner.table.version_, 3);
  EXPECT_THAT(annotator_.accepted(), SizeIs(4)) << "nothing was asked anew";
  const v1::RewardModelState now = Checkpoint(*model);
  for (const v1::RewardCaption& caption : now.captions()) {
    EXPECT_EQ(caption.answers(), caption.text() == "d" ? 0 : 1);
    EXPECT_TRUE(caption.asked());
  }
}

TEST_F(CoordinatorTest, RefusesACheckpointOfAnotherGoalOrLabelSetNamingBoth) {
  const v1::RewardModelState checkpoint = Checkpoint(*Make());
  experiment_.mutable_reward_model()->set_goal("collect gold");
  absl::Status status = Restore(*Make(), checkpoint);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("reward_model.goal is `collect gold`"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("`open doors`"));
  experiment_.mutable_reward_model()->set_goal("open doors");
  experiment_.mutable_reward_model()->add_label_set("superb");
  status = Restore(*Make(), checkpoint);
  EXPECT_THAT(std::string(status.message()), HasSubstr("[unhelpful, helpful, superb]"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("[unhelpful, helpful];"));
}

TEST_F(CoordinatorTest, RefusesAnotherRunGoalOrProtocolWithoutGivingThemAway) {
  auto model = Make();
  FakeLearner first(*model);
  ASSERT_TRUE(first.Connect().ok());
  FakeLearner other(*model, 2);
  other.hello.set_run_id("another");
  const auto differs = AllOf(HasSubstr("the learner's run is not"), HasSubstr("--run_dir"), Not(HasSubstr("another")));
  EXPECT_EQ(other.Connect().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.Connect().message()), differs);
  auto next = Make(101);
  ASSERT_TRUE(Restore(*next, Checkpoint(*model)).ok());
  other.ConnectTo(*next);
  EXPECT_EQ(other.Connect().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.Connect().message()), differs);
  other.hello.set_run_id("run");
  other.hello.set_goal("collect gold");
  EXPECT_EQ(other.Connect().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.Connect().message()),
              AllOf(HasSubstr("the learner's goal is not"), HasSubstr("reward_model.goal"), Not(HasSubstr("gold")),
                    Not(HasSubstr("doors"))));
  other.hello.set_protocol_version(77);
  EXPECT_EQ(other.Connect().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.Connect().message()), HasSubstr("77"));
  EXPECT_TRUE(first.output->disconnected.ok()) << "the one that is right is not disturbed";
}

TEST_F(CoordinatorTest, ANewConnectionEndsTheOneBeforeAndItsMessages) {
  auto model = Make();
  ConnectedLearner learner(*model);
  const auto before = learner.output;
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_EQ(before->disconnected.code(), absl::StatusCode::kUnavailable);
  v1::CaptionCounts counts;
  counts.add_id(5);
  counts.add_count(1);
  counts.add_last_step(0);
  ASSERT_TRUE(model->OnCounts(before.get(), counts).ok());
  model->DisconnectLearner(before.get());
  EXPECT_EQ(Checkpoint(*model).captions_size(), 0);
  learner.SeeAndTell("a");
  EXPECT_EQ(Checkpoint(*model).captions_size(), 1);
  counts.add_id(6);
  EXPECT_EQ(model->OnCounts(learner.output.get(), counts).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, ADrainingRewardModelSendsLearnersAway) {
  auto model = Make();
  ConnectedLearner learner(*model);
  model->Drain();
  EXPECT_EQ(learner.output->disconnected.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(learner.Connect().code(), absl::StatusCode::kUnavailable);
}

TEST_F(CoordinatorTest, ALearnerThatDoesNotReadLosesNothing) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a");
  learner.output->reading = false;
  annotator_.Answer("a", 0.25);
  Work(*model);
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_learner_connected"), 0);
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  EXPECT_EQ(learner.table.snapshots_, 1);
}

TEST_F(CoordinatorTest, AsksAgainForTextsThatDoNotCome) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.See("a");
  ASSERT_TRUE(learner.Offer().ok());
  model->Tick();
  EXPECT_THAT(learner.output->TextsRequested(), SizeIs(1));
  model->Tick();
  EXPECT_THAT(learner.output->TextsRequested(), SizeIs(1));
  clock_.Advance(TextRequests::kRetryAfter);
  model->Tick();
  EXPECT_THAT(learner.output->TextsRequested(), SizeIs(2));
  ASSERT_TRUE(learner.Connect().ok());
  model->Tick();
  EXPECT_THAT(learner.output->TextsRequested(), SizeIs(1)) << "on the new connection";
  EXPECT_EQ(Metric("sibyl_reward_model_texts_missing"), 1);
}

TEST_F(CoordinatorTest, CountsTextsThatAreNotTheIds) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.See("a");
  ASSERT_TRUE(learner.Offer().ok());
  v1::CaptionTexts texts;
  texts.add_texts()->set_id(CaptionId("a"));
  texts.mutable_texts(0)->set_text("b");
  model->OnTexts(learner.output.get(), texts);
  EXPECT_EQ(Metric("sibyl_reward_model_text_mismatches_total"), 1);
  EXPECT_EQ(AskNow(*model), 0);
}

TEST_F(CoordinatorTest, TellsItsProgressWhenItChangesAtMostOnceASecond) {
  auto model = Make();
  ConnectedLearner learner(*model);
  const auto progress = [&] {
    int count = 0;
    for (const auto& message : learner.output->messages) count += message.has_progress();
    return count;
  };
  model->Tick();
  EXPECT_EQ(progress(), 1);
  clock_.Advance(absl::Seconds(10));
  model->Tick();
  EXPECT_EQ(progress(), 1) << "nothing has changed";
  for (int i = 0; i < 20; ++i) {
    learner.See(absl::StrCat(i));
    ASSERT_TRUE(learner.Offer().ok());
    clock_.Advance(absl::Milliseconds(100));
    model->Tick();
  }
  EXPECT_EQ(progress(), 1 + 2);
  AskNow(*model);
  clock_.Advance(absl::Seconds(1));
  model->Tick();
  EXPECT_EQ(progress(), 4);
  const v1::RewardModelProgress& last = learner.output->messages.back().progress();
  EXPECT_EQ(last.captions_known(), 20);
  EXPECT_TRUE(last.annotator_connected());
  EXPECT_EQ(last.judge(), "rules:test@1");
}

TEST_F(CoordinatorTest, LabelsOfTwoJudgesAreNeverMixed) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b"}) learner.SeeAndTell(caption);
  annotator_.Answer("a", 0.25);
  Work(*model);
  annotator_.Answer("b", 0.5);
  Work(*model);
  model->Tick();
  EXPECT_THAT(learner.table.scores_, SizeIs(2));
  const v1::RewardModelState checkpoint = Checkpoint(*model);

  annotator_.SetJudge("openai:better");
  Work(*model);
  model->Tick();
  EXPECT_THAT(learner.table.scores_, IsEmpty()) << "removed";
  EXPECT_EQ(learner.table.snapshots_, 1);
  annotator_.Answer("a", 0.75);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.75);
  EXPECT_EQ(learner.table.Of("b"), -1);

  // The same when the judge changed while the reward model was away, or nobody knows whose labels they are.
  for (const char* known : {"rules:test@1", ""}) {
    v1::RewardModelState from = checkpoint;
    from.set_judge(known);
    auto restarted = Make(101);
    ASSERT_TRUE(Restore(*restarted, from).ok());
    Work(*restarted);
    EXPECT_EQ(annotator_.last_follow().from_sequence(), 1);
    learner.ConnectTo(*restarted);
    ASSERT_TRUE(learner.Connect().ok());
    EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.75);
    EXPECT_EQ(learner.table.Of("b"), -1);
  }
}

TEST_F(CoordinatorTest, AnAnnotatorThatLostItsLogIsAskedAnewAndOldLabelsStay) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b", "c"}) learner.SeeAndTell(caption);
  annotator_.Answer("a", 0.25);
  annotator_.Answer("b", 0.5);
  Work(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("c"));

  annotator_.LoseEverything();
  Work(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("c", "c")) << "its label would never have come";
  annotator_.Answer("c", 1.0);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  EXPECT_FLOAT_EQ(learner.table.Of("c"), 1.0);
  annotator_.Answer("a", 0.75);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.75) << "the new log's label takes the place of the lost one";
}

TEST_F(CoordinatorTest, AnotherLogIsNotTakenForTheOneBeforeHoweverLongItIsAndWhateverCameBetween) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b"}) learner.SeeAndTell(caption);
  annotator_.Answer("a", 0.25);
  Work(*model);
  const v1::RewardModelState checkpoint = Checkpoint(*model);
  EXPECT_EQ(checkpoint.log_id(), "log");
  EXPECT_EQ(checkpoint.next_sequence(), 2u);

  annotator_.LoseEverything();
  annotator_.Answer("b", 0.75);  // as long as the log before
  auto again = Make(2);
  ASSERT_TRUE(Restore(*again, checkpoint).ok());
  EXPECT_EQ(again->ConnectAnnotator(*annotator_.Describe()).from_sequence(), 1u);
  again->OnLabels(annotator_.LabelsFrom(1));
  FakeLearner other(*again);
  ASSERT_TRUE(other.Connect().ok());
  again->Tick();
  EXPECT_FLOAT_EQ(other.table.Of("b"), 0.75) << "read from the other log's beginning";
  EXPECT_FLOAT_EQ(other.table.Of("a"), 0.25) << "a label that the other log lacks is kept";
}

TEST_F(CoordinatorTest, AFailedQueryThatALaterAttemptAnswersIsLabelled) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a");
  annotator_.Answer("a", v1::OUTCOME_FAILED);
  Work(*model);
  annotator_.Answer("a", 0.75);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.75);
}

TEST_F(CoordinatorTest, AnAnswerToAnEarlierConnectionsQuestionsDoesNoHarm) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b"}) learner.SeeAndTell(caption);
  model->ConnectAnnotator(*annotator_.Describe());
  const Questions before = model->TakeQuestions();
  EXPECT_EQ(before.request.queries_size(), 2);
  const v1::AskResponse late = *annotator_.Ask(before.request);
  AskNow(*model);
  model->OnAnswers(before, late);
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_queries_outstanding"), 2);
  EXPECT_EQ(Metric("sibyl_reward_model_captions_asked"), 2);
  annotator_.Answer("a", 0.5);
  annotator_.Answer("b", 0.5);
  Work(*model);
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_queries_outstanding"), 0);
}

// Everything at random: sights, labels, lost connections on both sides, restarts from the last checkpoint. At the end
// the learner's table is the label log's, and every caption was asked once.
TEST_F(CoordinatorTest, SurvivesAnyOrderOfLosses) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    FakeAnnotator annotator(20);
    experiment_.mutable_reward_model()->set_queue_target(static_cast<uint32_t>(1 + random.Below(8)));
    auto model = Make(1);
    uint64_t incarnation = 1;
    auto learner = std::make_unique<FakeLearner>(*model, 1);
    ASSERT_TRUE(learner->Connect().ok());
    v1::RewardModelState checkpoint = Checkpoint(*model);
    std::map<std::string, float> truth;
    std::set<std::string> seen;
    const auto answer_some = [&](uint64_t limit) {
      for (const v1::Query& query : annotator.accepted()) {
        if (limit == 0) return;
        if (!truth.try_emplace(Captions(query)[0], random.Uniform()).second) continue;
        annotator.Answer(Captions(query)[0], truth[Captions(query)[0]]);
        --limit;
      }
    };
    const auto follow = [&] { EXPECT_FALSE(FollowOnce(*model, annotator).ok()); };
    const auto ask = [&] {
      model->ConnectAnnotator(*annotator.Describe());
      for (uint64_t i = random.Below(4); i > 0; --i) ASSERT_TRUE(AskOnce(*model, annotator).ok());
    };
    for (int step = 0; step < 300; ++step) {
      clock_.Advance(absl::Milliseconds(300));
      switch (random.Below(10)) {
        case 0:
        case 1:
        case 2: {
          const std::string caption = absl::StrCat("caption ", random.Below(60));
          seen.insert(caption);
          learner->SeeAndTell(caption, 1 + random.Below(9), step);
          break;
        }
        case 3:
          answer_some(random.Below(5));
          break;
        case 4:
          follow();
          break;
        case 5:
          ask();
          break;
        case 6:
          model->Tick();
          break;
        case 7:
          learner->Lose();
          ASSERT_TRUE(learner->Connect().ok());
          break;
        case 8:
          checkpoint = Checkpoint(*model);
          break;
        case 9:
          if (random.Below(3) > 0) break;
          model = Make(++incarnation);
          ASSERT_TRUE(Restore(*model, checkpoint).ok());
          if (random.Below(2) == 0) {
            learner->ConnectTo(*model);
          } else {
            learner = std::make_unique<FakeLearner>(*model, 1000 + step);
            for (const std::string& caption : seen) learner->See(caption, 1, step);  // its own checkpoint
          }
          ASSERT_TRUE(learner->Connect().ok());
          break;
      }
    }
    for (int round = 0; round < 200; ++round) {
      clock_.Advance(absl::Seconds(31));
      model->Tick();
      learner->SendTexts();
      ask();
      answer_some(100);
      follow();
    }
    model->Tick();
    EXPECT_FALSE(learner->table.gaps_);
    for (const std::string& caption : seen) {
      ASSERT_TRUE(truth.contains(caption)) << caption;
      EXPECT_FLOAT_EQ(learner->table.Of(caption), truth[caption]) << caption;
    }
    std::set<std::string> distinct;
    for (const std::string& caption : annotator.accepted_captions()) {
      EXPECT_TRUE(distinct.insert(caption).second) << caption << " was accepted twice";
    }
    const v1::RewardModelState last = Checkpoint(*model);
    for (const v1::RewardCaption& caption : last.captions()) {
      EXPECT_EQ(caption.answers(), 1) << caption.text();
    }
  }
}

// --- Checkpoints in pieces ---

// Applies pieces as a file holds them.
class Replay {
 public:
  void Take(Coordinator& model, bool whole) {
    if (whole) pieces_.clear();
    model.BeginCheckpoint(whole);
    do {
      pieces_.push_back(model.NextPiece());
    } while (!pieces_.back().has_head());
  }
  absl::Status RestoreTo(Coordinator& model) const {
    for (const v1::RewardModelPiece& piece : pieces_) model.Restore(piece);
    return model.FinishRestore(pieces_.back().head());
  }
  const v1::RewardModelPiece& last() const { return pieces_.back(); }
  size_t size() const { return pieces_.size(); }

 private:
  std::vector<v1::RewardModelPiece> pieces_;
};

TEST_F(CoordinatorTest, ACheckpointHasOnlyWhatHasChanged) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b", "c"}) learner.SeeAndTell(caption);
  Replay replay;
  replay.Take(*model, /*whole=*/true);
  EXPECT_EQ(replay.last().captions_size(), 3);
  EXPECT_FALSE(replay.last().captions(0).text().empty());
  replay.Take(*model, /*whole=*/false);
  EXPECT_EQ(replay.last().captions_size(), 0) << "nothing has changed";
  learner.SeeAndTell("b", 7, 50);
  replay.Take(*model, /*whole=*/false);
  ASSERT_EQ(replay.last().captions_size(), 1);
  EXPECT_EQ(replay.last().captions(0).id(), CaptionId("b"));
  EXPECT_EQ(replay.last().captions(0).text(), "") << "the file has it";
  annotator_.Answer("a", 0.25);
  Work(*model);
  replay.Take(*model, /*whole=*/false);
  EXPECT_EQ(replay.last().head().next_sequence(), 2u);
  auto again = Make(101);
  ASSERT_TRUE(replay.RestoreTo(*again).ok());
  EXPECT_EQ(Rows(Checkpoint(*again)), Rows(Checkpoint(*model)));
}

TEST_F(CoordinatorTest, ALargeCheckpointComesInPieces) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (int i = 0; i < 10'000; ++i) {
    learner.See(absl::StrCat(i));
    annotator_.Answer(absl::StrCat(i), 1);
  }
  ASSERT_TRUE(learner.Offer().ok());
  Work(*model);
  model->BeginCheckpoint(/*whole=*/true);
  Metrics metrics;
  const auto again = std::make_unique<Coordinator>(experiment_, std::make_unique<Retrieval>(experiment_.reward_model()),
                                                   101, clock_, metrics);
  v1::RewardModelPiece piece;
  int pieces = 0;
  do {
    piece = model->NextPiece();
    EXPECT_LE(piece.captions_size(), 4096);
    // What comes between two pieces is in a later one.
    if (++pieces == 1) {
      annotator_.Answer("late", 0.5);
      Work(*model);
    }
    again->Restore(piece);
  } while (!piece.has_head());
  EXPECT_EQ(pieces, 3);
  ASSERT_TRUE(again->FinishRestore(piece.head()).ok());
  EXPECT_EQ(piece.head().next_sequence(), 10'002u);
  EXPECT_EQ(Rows(Checkpoint(*again)), Rows(Checkpoint(*model)));
}

TEST_F(CoordinatorTest, AnotherJudgesLabelsAreVoidInTheFileToo) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b"}) learner.SeeAndTell(caption);
  annotator_.Answer("a", 0.25);
  Work(*model);
  Replay replay;
  replay.Take(*model, /*whole=*/true);
  annotator_.SetJudge("openai:better");
  annotator_.Answer("b", 0.75);
  Work(*model);
  replay.Take(*model, /*whole=*/false);
  EXPECT_TRUE(replay.last().labels_void());
  auto again = Make(101);
  ASSERT_TRUE(replay.RestoreTo(*again).ok());
  EXPECT_EQ(Rows(Checkpoint(*again)), Rows(Checkpoint(*model)));
  again->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_captions_labelled"), 1);
}

TEST_F(CoordinatorTest, LabelsOfALostLogAreStillReplacedAfterARestart) {
  auto model = Make();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a");
  learner.SeeAndTell("b");
  annotator_.Answer("a", 0.25);
  annotator_.Answer("b", 0.5);
  Work(*model);
  annotator_.LoseEverything();
  Work(*model);
  Replay replay;
  replay.Take(*model, /*whole=*/true);
  auto again = Make(101);
  ASSERT_TRUE(replay.RestoreTo(*again).ok());
  annotator_.Answer("a", 0.75);
  Work(*again);
  const v1::RewardModelState state = Checkpoint(*again);
  for (const v1::RewardCaption& caption : state.captions()) {
    EXPECT_EQ(caption.answers(), 1u) << caption.text();
    EXPECT_FLOAT_EQ(caption.good_sum(), caption.text() == "a" ? 0.75f : 0.5f);
  }
}

// Everything at random, with small bounds: a restart from the file gives what there was.
TEST_F(CoordinatorTest, AFileOfManyCheckpointsGivesTheLastOne) {
  experiment_.mutable_reward_model()->set_max_captions(30);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    FakeAnnotator annotator(20);
    auto model = Make(1);
    auto learner = std::make_unique<FakeLearner>(*model, 1);
    ASSERT_TRUE(learner->Connect().ok());
    Replay replay;
    replay.Take(*model, /*whole=*/true);
    for (int step = 0; step < 200; ++step) {
      switch (random.Below(8)) {
        case 0:
        case 1:
        case 2:
          learner->SeeAndTell(absl::StrCat("caption ", random.Below(60)), 1 + random.Below(9), step);
          break;
        case 3:
          annotator.Answer(absl::StrCat("caption ", random.Below(60)), static_cast<float>(random.Uniform()));
          break;
        case 4:
          EXPECT_FALSE(FollowOnce(*model, annotator).ok());
          model->ConnectAnnotator(*annotator.Describe());
          ASSERT_TRUE(AskOnce(*model, annotator).ok());
          break;
        case 5:
          replay.Take(*model, random.Below(10) == 0);
          break;
        case 6:
          if (random.Below(10) == 0) annotator.SetJudge(absl::StrCat("judge ", step));
          if (random.Below(10) == 0) annotator.LoseEverything();
          break;
        case 7:
          if (random.Below(5) > 0) break;
          learner = std::make_unique<FakeLearner>(*model, 1000 + step);
          ASSERT_TRUE(learner->Connect().ok());
          break;
      }
    }
    replay.Take(*model, /*whole=*/false);
    auto again = Make(2);
    ASSERT_TRUE(replay.RestoreTo(*again).ok());
    EXPECT_EQ(Rows(Checkpoint(*again)), Rows(Checkpoint(*model)));
    EXPECT_LE(Checkpoint(*again).captions_size(), 30);
  }
}

// --- Bounds ---

TEST_F(CoordinatorTest, ForgetsTheCaptionSeenLongestAgoAndItsScore) {
  experiment_.mutable_reward_model()->set_max_captions(4);
  experiment_.mutable_reward_model()->set_kind(v1::REWARD_MODEL_KIND_RETRIEVAL);
  auto model = Make();
  ConnectedLearner learner(*model);
  annotator_.Answer("a", 0.25);
  EXPECT_FALSE(FollowOnce(*model, annotator_).ok());
  for (const char* caption : {"a", "b", "c", "d"}) learner.SeeAndTell(caption);
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  learner.SeeAndTell("e");
  EXPECT_EQ(Metric("sibyl_reward_model_captions"), 4);
  EXPECT_EQ(Metric("sibyl_reward_model_captions_forgotten_total"), 1) << "b, as a has a label";
  EXPECT_EQ(Metric("sibyl_reward_model_candidates"), 3);
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  // All others get labels too; then a, which was seen longest ago, has to go.
  for (const char* caption : {"c", "d", "e"}) annotator_.Answer(caption, 0.5);
  EXPECT_FALSE(FollowOnce(*model, annotator_).ok());
  for (const char* caption : {"f", "g"}) learner.SeeAndTell(caption);
  EXPECT_EQ(learner.table.Of("a"), -1) << "the learner is told";
  EXPECT_FALSE(learner.table.gaps_);
  // When it comes back, the annotator knows the answer.
  learner.SeeAndTell("a", 10);
  AskNow(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("a"), 0.25);
  EXPECT_THAT(annotator_.accepted_captions(), Not(::testing::Contains("a")));
}

TEST_F(CoordinatorTest, RefusesCountsThatCannotBe) {
  auto model = Make();
  ConnectedLearner learner(*model);
  for (const auto& [count, step] : {std::pair(uint64_t{1} << 60, uint64_t{1}), {1, uint64_t{1} << 60}}) {
    v1::CaptionCounts counts;
    counts.add_id(5);
    counts.add_count(count);
    counts.add_last_step(step);
    const absl::Status status = model->OnCounts(learner.output.get(), counts);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("caption 5"));
  }
  EXPECT_EQ(Checkpoint(*model).captions_size(), 0);
}

// --- Rankings ---

// What a model that learns from comparisons is told, and a certainty that a test sets.
class FakeRanker : public Retrieval {
 public:
  using Retrieval::Retrieval;
  void ObserveComparison(const Caption& first, const Caption& second, double first_better) override {
    observed[{first.text(), second.text()}] = first_better;
  }
  void Restart() override { observed.clear(); }
  double Uncertainty(const Caption& caption, const Caption* other) const override {
    return other->text() == unsure_of ? 1 : 0;
  }

  std::map<std::pair<std::string, std::string>, double> observed;
  std::string unsure_of;
};

class RankingTest : public CoordinatorTest {
 protected:
  RankingTest() {
    experiment_.mutable_reward_model()->set_kind(v1::REWARD_MODEL_KIND_RANKING);
    experiment_.mutable_reward_model()->mutable_pairs()->set_comparisons(2);
  }
  std::unique_ptr<Coordinator> MakeRanking(uint64_t incarnation = 100) {
    metrics_ = std::make_unique<Metrics>();
    auto ranker = std::make_unique<FakeRanker>(experiment_.reward_model());
    ranker_ = ranker.get();
    return std::make_unique<Coordinator>(experiment_, std::move(ranker), incarnation, clock_, *metrics_);
  }
  // As unordered pairs.
  std::multiset<std::set<std::string>> AskedPairs() {
    std::multiset<std::set<std::string>> pairs;
    for (const v1::Query& query : annotator_.accepted()) pairs.insert({Captions(query)[0], Captions(query)[1]});
    return pairs;
  }
  // Answers everything that was asked and was not: the longer caption is better.
  void AnswerAll() {
    for (const v1::Query& query : annotator_.accepted()) {
      if (!answered_.insert({Captions(query)[0], Captions(query)[1]}).second) continue;
      annotator_.AnswerPair(Captions(query)[0], Captions(query)[1],
                            Captions(query)[0].size() > Captions(query)[1].size());
    }
  }

  FakeRanker* ranker_ = nullptr;
  std::set<std::pair<std::string, std::string>> answered_;
};

TEST_F(RankingTest, SendsTheContextOfBothWhereTheConfigurationSaysSo) {
  experiment_.mutable_environment()->set_send_context(true);
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a door", "a key"}) learner.SeeAndTell(caption);
  AskNow(*model);
  const v1::Query query = annotator_.accepted().front();
  EXPECT_EQ(ContextOf(query),
            absl::StrCat("first: view of ", Captions(query)[0], "; second: view of ", Captions(query)[1]));
}

TEST_F(RankingTest, ComparesEachCaptionAFewTimesAndNoPairTwice) {
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  learner.SeeAndTell("a", 10);
  EXPECT_EQ(AskNow(*model), 0) << "nobody to compare it with";
  for (const char* caption : {"bb", "ccc", "dddd", "eeeee"}) learner.SeeAndTell(caption, 10);
  for (int i = 0; i < 5; ++i) {
    learner.SeeAndTell("a");
    Work(*model);
    AnswerAll();
  }
  Work(*model);
  const v1::Query query = annotator_.accepted().front();
  EXPECT_EQ(query.kind(), "compare");
  EXPECT_THAT(query.grammar().choice().labels(), ElementsAre("first", "second", "tie"));
  std::map<std::string, int> comparisons;
  for (const std::set<std::string>& pair : AskedPairs()) {
    EXPECT_EQ(pair.size(), 2u);
    EXPECT_EQ(AskedPairs().count(pair), 1u);
    for (const std::string& caption : pair) ++comparisons[caption];
  }
  EXPECT_THAT(comparisons, SizeIs(5));
  for (const auto& [caption, times] : comparisons) EXPECT_GE(times, 2) << caption;
  EXPECT_EQ(ranker_->observed.size(), annotator_.accepted().size());
  for (const auto& [pair, better] : ranker_->observed) EXPECT_EQ(better, pair.first.size() > pair.second.size());
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_captions_labelled"), 5);
  EXPECT_EQ(Metric("sibyl_reward_model_queries_outstanding"), 0);
  EXPECT_EQ(Metric("sibyl_reward_model_pairs_both_orders"), 0);
}

TEST_F(RankingTest, BothOrdersShowAJudgeThatGoesByPosition) {
  experiment_.mutable_reward_model()->mutable_pairs()->set_both_orders(true);
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "bb", "ccc"}) learner.SeeAndTell(caption);
  AskNow(*model);
  const auto pairs = AskedPairs();
  ASSERT_FALSE(pairs.empty());
  for (const auto& pair : pairs) EXPECT_EQ(pairs.count(pair), 2u);
  annotator_.AnswerPair("a", "bb", 1);
  annotator_.AnswerPair("bb", "a", 1);  // the first place again
  annotator_.AnswerPair("a", "ccc", 0);
  annotator_.AnswerPair("ccc", "a", 0.7, 0.2);
  annotator_.AnswerPair("bb", "ccc", 0, 1);  // a tie prefers no place
  annotator_.AnswerPair("ccc", "bb", 1);
  Work(*model);
  model->Tick();
  EXPECT_EQ(Metric("sibyl_reward_model_pairs_both_orders"), 3);
  EXPECT_EQ(Metric("sibyl_reward_model_pairs_flipped"), 1);
  EXPECT_NEAR((ranker_->observed[{"ccc", "a"}]), 0.8, 1e-6) << "a tie is half and half";
  EXPECT_EQ((ranker_->observed[{"bb", "ccc"}]), 0.5);
}

TEST_F(RankingTest, OneOrderIsARandomOne) {
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (int i = 0; i < 100; ++i) learner.See(absl::StrCat("caption ", i), i == 0 ? 1'000'000 : 1);
  learner.SeeAndTell("last");
  experiment_.mutable_reward_model()->set_queue_target(1000);
  int first = 0, queries = 0;
  for (int i = 0; i < 20; ++i) {
    AskNow(*model);
    AnswerAll();
    EXPECT_FALSE(FollowOnce(*model, annotator_).ok());
  }
  for (const v1::Query& query : annotator_.accepted()) {
    ++queries;
    first += query.tag() == CaptionId(Captions(query)[0]);
  }
  EXPECT_GT(queries, 50);
  EXPECT_NEAR(static_cast<double>(first) / queries, 0.5, 0.25);
}

TEST_F(RankingTest, StrategiesChooseThePartner) {
  const auto partner_of_a = [&](v1::PairStrategy strategy) {
    experiment_.mutable_reward_model()->mutable_pairs()->set_strategy(strategy);
    experiment_.mutable_reward_model()->set_queue_target(1);
    std::map<std::string, int> partners;
    for (uint64_t incarnation = 1; incarnation <= 40; ++incarnation) {
      annotator_.LoseEverything();
      auto model = MakeRanking(incarnation);
      ranker_->unsure_of = "c";
      FakeLearner learner(*model);
      EXPECT_TRUE(learner.Connect().ok());
      for (const auto& [caption, count] : {std::pair("a", 1'000'000), {"b", 90'000}, {"c", 10}, {"d", 10}}) {
        learner.SeeAndTell(caption, count);
      }
      const size_t before = annotator_.accepted().size();
      model->ConnectAnnotator(*annotator_.Describe());
      EXPECT_EQ(AskOnce(*model, annotator_).value_or(0), 1);
      const v1::Query query = annotator_.accepted()[before];
      ++partners[Captions(query)[Captions(query)[0] == "a" ? 1 : 0]];
    }
    return partners;
  };
  EXPECT_GE(partner_of_a(v1::PAIR_STRATEGY_RANDOM)["d"], 3);
  EXPECT_GE(partner_of_a(v1::PAIR_STRATEGY_COUNT)["b"], 38);
  EXPECT_GE(partner_of_a(v1::PAIR_STRATEGY_UNCERTAIN)["c"], 38);
}

TEST_F(RankingTest, AFailedComparisonThatALaterAttemptAnswersCounts) {
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "b"}) learner.SeeAndTell(caption);
  annotator_.AnswerPair("a", "b", v1::OUTCOME_FAILED);
  annotator_.AnswerPair("a", "b", 0.75f);
  model->ConnectAnnotator(*annotator_.Describe());
  model->OnLabels(annotator_.LabelsFrom(1));
  const v1::RewardModelState state = Checkpoint(*model);
  ASSERT_EQ(state.comparisons_size(), 1);
  EXPECT_TRUE(state.comparisons(0).answered());
  EXPECT_EQ(state.comparisons(0).first_better(), 0.75);
}

TEST_F(RankingTest, ComparisonsComeBackFromTheCheckpointAndCountOnce) {
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "bb", "ccc"}) learner.SeeAndTell(caption);
  Work(*model);
  AnswerAll();
  Work(*model);
  AnswerAll();
  Work(*model);
  const auto observed = ranker_->observed;
  ASSERT_GE(observed.size(), 2u);
  v1::RewardModelState state = Checkpoint(*model);
  EXPECT_EQ(static_cast<size_t>(state.comparisons_size()), observed.size());

  // As if it had been killed before the last labels were noted down: the log brings them again.
  state.set_next_sequence(1);
  auto again = MakeRanking(101);
  ASSERT_TRUE(Restore(*again, state).ok());
  EXPECT_EQ(ranker_->observed, observed);
  const size_t asked = annotator_.accepted().size();
  Work(*again);
  const v1::RewardModelState after = Checkpoint(*again);
  EXPECT_EQ(after.comparisons_size(), state.comparisons_size());
  for (const v1::RewardCaption& caption : after.captions()) EXPECT_EQ(caption.answers(), 2u);
  EXPECT_EQ(annotator_.accepted().size(), asked) << "nothing is asked again";

  // Labels of single captions are not comparisons.
  experiment_.mutable_reward_model()->set_kind(v1::REWARD_MODEL_KIND_RETRIEVAL);
  EXPECT_THAT(std::string(Restore(*Make(), state).message()), HasSubstr("label_set"));
}

TEST_F(RankingTest, WithoutAnAnswerThereIsNothingToLearn) {
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "bb"}) learner.SeeAndTell(caption);
  AskNow(*model);
  ASSERT_THAT(annotator_.accepted(), SizeIs(1));
  const v1::Query query = annotator_.accepted()[0];
  annotator_.AnswerPair(Captions(query)[0], Captions(query)[1], v1::OUTCOME_ABSTAINED);
  Work(*model);
  EXPECT_TRUE(ranker_->observed.empty());
  learner.SeeAndTell("a", 1000);
  EXPECT_EQ(AskNow(*model), 0) << "the same pair is not asked again";
  EXPECT_EQ(learner.output->messages.back().progress().labels_without_answer(), 0u) << "told at most once a second";
  clock_.Advance(absl::Seconds(2));
  model->Tick();
  EXPECT_EQ(learner.output->messages.back().progress().labels_without_answer(), 1u);
}

TEST_F(RankingTest, KnownAnswersAreTaken) {
  annotator_.AnswerPair("a", "bb", 0);
  annotator_.AnswerPair("bb", "a", 1);
  auto model = MakeRanking();
  ConnectedLearner learner(*model);
  for (const char* caption : {"a", "bb"}) learner.SeeAndTell(caption);
  EXPECT_EQ(AskNow(*model), 1);
  EXPECT_THAT(ranker_->observed, SizeIs(1));
  EXPECT_THAT(annotator_.accepted(), IsEmpty());
  Work(*model);
  EXPECT_THAT(ranker_->observed, SizeIs(2)) << "the log has the other order too";
  EXPECT_EQ(Metric("sibyl_reward_model_labels_ignored_total"), 0);
}

}  // namespace
}  // namespace sibyl::reward_model
