#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/runtime/files.h"

namespace sibyl {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() { std::filesystem::create_directories(folder_); }
  ~ConfigTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& text) {
    const std::string path = folder_ + "/trial.textproto";
    EXPECT_TRUE(WriteFileDurably(path, text).ok());
    return path;
  }
  // The message of the error; "" where there is none.
  std::string Error(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return std::string(LoadExperiment(Write(text), overrides).status().message());
  }

  const std::string folder_ = testing::TempDir() + "config_test." + std::to_string(getpid());
};

constexpr char kSmall[] = R"(
  environment { name: "minigrid/DoorKey-8x8" }
  reward_model { goal: "open the door" }
  annotator { rules_file: "some.rules" }
)";

TEST_F(ConfigTest, FillsInDefaultsAndTheName) {
  const auto experiment = LoadExperiment(Write(kSmall), {});
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->name(), "trial");
  EXPECT_EQ(experiment->learner().batch_size(), 1024u);
  EXPECT_EQ(experiment->annotator().judge(), v1::JUDGE_KIND_RULES);
  EXPECT_EQ(experiment->reward_model().label_set_size(), 2);
}

TEST_F(ConfigTest, TakesPathsFromTheFoldersTheyWereNamedIn) {
  EXPECT_EQ(LoadExperiment(Write(kSmall), {})->annotator().rules_file(), folder_ + "/some.rules");
  EXPECT_EQ(LoadExperiment(Write(kSmall), {"annotator.rules_file=x.rules"})->annotator().rules_file(),
            (std::filesystem::current_path() / "x.rules").string());
  EXPECT_EQ(LoadExperiment(Write(kSmall), {"annotator.rules_file=/x.rules"})->annotator().rules_file(), "/x.rules");
}

TEST_F(ConfigTest, PrintsWhatItReadsBack) {
  const auto experiment = LoadExperiment(Write(kSmall), {"learner.learning_rate=5e-4", "name=other"});
  ASSERT_TRUE(experiment.ok());
  const auto again = LoadExperiment(Write(ExperimentText(*experiment)), {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ExperimentText(*again), ExperimentText(*experiment));
}

TEST_F(ConfigTest, OverridesGoLastAndInOrder) {
  const auto experiment =
      LoadExperiment(Write(kSmall), {"seed=7", "seed=8", "reward.credit=CREDIT_ONI", "reward_model.binary=false",
                                     "reward_model.label_set=bad,fair,good", "reward_model.goal=a = b"});
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->seed(), 8u);
  EXPECT_EQ(experiment->reward().credit(), v1::CREDIT_ONI);
  EXPECT_FALSE(experiment->reward_model().binary());
  EXPECT_THAT(experiment->reward_model().label_set(), testing::ElementsAre("bad", "fair", "good"));
  EXPECT_EQ(experiment->reward_model().goal(), "a = b");
}

TEST_F(ConfigTest, NamesAnUnknownField) {
  EXPECT_THAT(Error("learner { batch_sise: 3 }"),
              AllOf(HasSubstr("trial.textproto"), HasSubstr("line 1"), HasSubstr("batch_sise")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_sise=3"}),
              AllOf(HasSubstr("learner.batch_sise"), HasSubstr("there are"), HasSubstr("batch_size")));
  EXPECT_THAT(Error(kSmall, {"learnr.batch_size=3"}), AllOf(HasSubstr("`learnr`"), HasSubstr("learner")));
}

TEST_F(ConfigTest, NamesAValueOfTheWrongType) {
  EXPECT_THAT(Error("seed: \"one\""), AllOf(HasSubstr("line 1"), HasSubstr("one")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=many"}), AllOf(HasSubstr("learner.batch_size"), HasSubstr("`many`")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=-1"}), AllOf(HasSubstr("learner.batch_size"), HasSubstr("`-1`")));
  EXPECT_THAT(Error(kSmall, {"reward.credit=BOTH"}),
              AllOf(HasSubstr("reward.credit"), HasSubstr("`BOTH`"), HasSubstr("CREDIT_ONI")));
}

TEST_F(ConfigTest, NamesAnOverrideThatIsNone) {
  EXPECT_THAT(Error(kSmall, {"seed"}), AllOf(HasSubstr("`seed`"), HasSubstr("field=value")));
  EXPECT_THAT(Error(kSmall, {"learner=3"}), AllOf(HasSubstr("learner"), HasSubstr("learning_rate")));
  EXPECT_THAT(Error(kSmall, {"seed.x=3"}), AllOf(HasSubstr("`seed`"), HasSubstr("no fields")));
  EXPECT_THAT(Error(kSmall, {""}), HasSubstr("field=value"));
}

TEST(TrainingThreads, AreWhatIsAskedForElseAsManyAsHaveWork) {
  v1::LearnerConfig learner;
  learner.set_unroll_length(32);
  learner.set_batch_size(32 * 7);
  learner.set_minibatches(1);
  learner.set_training_threads(5);
  EXPECT_EQ(TrainingThreads(learner), 5);
  learner.set_training_threads(0);
  EXPECT_EQ(TrainingThreads(learner), 1);
  learner.set_batch_size(32 * 4096);
  EXPECT_GE(TrainingThreads(learner), 1);
  EXPECT_LE(TrainingThreads(learner), 8);
}

TEST_F(ConfigTest, NamesAnImpossibleValueAndWhatWouldDo) {
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=1000"}),
              AllOf(HasSubstr("learner.batch_size is 1000"), HasSubstr("multiple"), HasSubstr("32")));
  EXPECT_THAT(Error(kSmall, {"actor.groups=3"}), AllOf(HasSubstr("actor.groups is 3"), HasSubstr("64")));
  EXPECT_THAT(Error(kSmall, {"learner.gamma=1.5"}), HasSubstr("learner.gamma is 1.5"));
  EXPECT_THAT(Error(kSmall, {"learner.unroll_slots=5", "learner.batch_size=4096"}),
              AllOf(HasSubstr("learner.unroll_slots is 5"), HasSubstr("at least 256")));
  EXPECT_THAT(Error(kSmall, {"learner.unroll_slots=5"}),
              AllOf(HasSubstr("learner.unroll_slots is 5"), HasSubstr("at least 96")));
  EXPECT_THAT(Error(kSmall, {"learner.device=tpu"}), AllOf(HasSubstr("learner.device is `tpu`"), HasSubstr("cuda")));
  EXPECT_THAT(Error(kSmall, {"learner.learning_rate=nan"}), HasSubstr("learner.learning_rate is nan"));
  EXPECT_THAT(Error(kSmall, {"total_steps=0"}), HasSubstr("total_steps is 0"));
  EXPECT_THAT(Error(kSmall, {"reward_model.label_set=one"}), HasSubstr("at least two labels"));
  EXPECT_THAT(Error(kSmall, {"learner.minibatches=3"}), AllOf(HasSubstr("learner.minibatches is 3"), HasSubstr("32")));
  EXPECT_THAT(Error(kSmall, {"reward.shaping=SHAPING_DELTA", "reward.credit=CREDIT_ONI"}),
              AllOf(HasSubstr("reward.credit is CREDIT_ONI"), HasSubstr("reward.shaping")));
}

TEST_F(ConfigTest, TheGoalMayComeFromAFile) {
  const std::string goal = folder_ + "/goal.txt";
  ASSERT_TRUE(WriteFileDurably(goal, "go through\n the door \n").ok());
  const std::string text = R"(
    environment { name: "minigrid/DoorKey-8x8" }
    reward_model { goal_file: "goal.txt" }
    annotator { rules_file: "some.rules" }
  )";
  const auto experiment = LoadExperiment(Write(text), {});
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->reward_model().goal(), "go through\n the door");
  // A run keeps the goal, not where it stood.
  ASSERT_TRUE(WriteFileDurably(goal, "another").ok());
  EXPECT_EQ(LoadExperiment(Write(ExperimentText(*experiment)), {})->reward_model().goal(), "go through\n the door");
  EXPECT_EQ(
      LoadExperiment(Write(kSmall), {"reward_model.goal=", "reward_model.goal_file=" + goal})->reward_model().goal(),
      "another");
  EXPECT_THAT(Error(kSmall, {"reward_model.goal_file=" + goal}),
              AllOf(HasSubstr(goal), HasSubstr("reward_model.goal")));
  EXPECT_THAT(Error(kSmall, {"reward_model.goal=", "reward_model.goal_file=absent.txt"}), HasSubstr("absent.txt"));
  ASSERT_TRUE(WriteFileDurably(goal, " \n").ok());
  EXPECT_THAT(Error(text), HasSubstr("reward_model.goal is not set"));
}

TEST_F(ConfigTest, NamesWhatIsRequiredAndMissing) {
  EXPECT_THAT(Error(""), HasSubstr("environment.name is not set"));
  EXPECT_THAT(Error(kSmall, {"reward_model.goal="}), HasSubstr("reward_model.goal is not set"));
  EXPECT_THAT(Error(kSmall, {"annotator.rules_file="}), HasSubstr("annotator.rules_file is not set"));
  EXPECT_THAT(Error(kSmall, {"annotator.judge=JUDGE_KIND_OPENAI"}), HasSubstr("annotator.openai.url is not set"));
  // Nothing about the judge is needed where captions are not rewarded.
  EXPECT_EQ(Error(kSmall, {"reward.intrinsic_coefficient=0", "reward_model.goal=", "annotator.rules_file="}), "");
}

TEST_F(ConfigTest, NamesAMissingFile) {
  const auto status = LoadExperiment(folder_ + "/absent.textproto", {}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("absent.textproto"));
}

TEST_F(ConfigTest, AResumeMayChangeHowButNotWhat) {
  const auto was = LoadExperiment(Write(kSmall), {});
  const auto difference = [&](const std::string& override) {
    const auto is = LoadExperiment(Write(kSmall), {override});
    EXPECT_TRUE(is.ok()) << is.status();
    return ResumeDifference(*was, *is);
  };
  EXPECT_EQ(difference("total_steps=5"), "");
  EXPECT_EQ(difference("learner.training_threads=2"), "");
  EXPECT_EQ(difference("actor.processes=3"), "");
  EXPECT_EQ(ResumeDifference(*LoadExperiment(Write(kSmall), {"annotator.rules_file=/a/doors.rules"}),
                             *LoadExperiment(Write(kSmall), {"annotator.rules_file=/b/doors.rules"})),
            "")
      << "a run may be moved";
  EXPECT_THAT(difference("annotator.rules_file=/a/keys.rules"), HasSubstr("annotator.rules_file"));
  EXPECT_THAT(difference("reward_model.goal=close the door"),
              AllOf(HasSubstr("reward_model.goal"), HasSubstr("open the door"), HasSubstr("close the door")));
  EXPECT_THAT(difference("learner.gamma=0.9"), HasSubstr("learner.gamma"));
  EXPECT_THAT(difference("environment.caption_rule=CAPTION_RULE_DIGITS"), HasSubstr("environment.caption_rule"));
  EXPECT_THAT(difference("seed=2"), HasSubstr("seed"));
}

TEST_F(ConfigTest, TheConfigurationsThatComeAlongAreValid) {
  int count = 0;
  for (const char* folder : {SIBYL_SOURCE_DIR "/configs", SIBYL_SOURCE_DIR "/experiments/configs"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".textproto") continue;
      const auto experiment = LoadExperiment(entry.path().string(), {});
      EXPECT_TRUE(experiment.ok()) << entry.path() << ": " << experiment.status();
      ++count;
    }
  }
  EXPECT_GE(count, 7);
}

}  // namespace
}  // namespace sibyl
