#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config_fields.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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
  EXPECT_THAT(Error("learner { batch_sise: 3 }"), HasSubstr("did you mean batch_size?"));
  EXPECT_THAT(Error(kSmall, {"learner.batch_sise=3"}),
              AllOf(HasSubstr("`batch_sise`"), HasSubstr("did you mean learner.batch_size?")));
  EXPECT_THAT(Error(kSmall, {"learnr.batch_size=3"}), AllOf(HasSubstr("`learnr`"), HasSubstr("learner.batch_size")));
  EXPECT_THAT(Error(kSmall, {"gamma=0.9"}), HasSubstr("did you mean learner.gamma?"));
  EXPECT_THAT(Error(kSmall, {"learner.horsepower=3"}), AllOf(HasSubstr("there are: "), HasSubstr("batch_size")));
}

TEST_F(ConfigTest, NamesAValueOfTheWrongType) {
  EXPECT_THAT(Error("seed: \"one\""), AllOf(HasSubstr("line 1"), HasSubstr("one")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=many"}), AllOf(HasSubstr("learner.batch_size"), HasSubstr("`many`")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=-1"}), AllOf(HasSubstr("learner.batch_size"), HasSubstr("`-1`")));
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=1.5"}), HasSubstr("whole number"));
  EXPECT_THAT(Error(kSmall, {"policy.normalise_returns=maybe"}), HasSubstr("true or false"));
  const std::string both = Error(kSmall, {"reward.credit=BOTH"});
  EXPECT_THAT(both, AllOf(HasSubstr("reward.credit"), HasSubstr("`BOTH`"), HasSubstr("one of ACTION, ONI")));
  EXPECT_THAT(both, Not(HasSubstr("UNSPECIFIED")));
  EXPECT_THAT(Error(kSmall, {"reward.credit=UNSPECIFIED"}), HasSubstr("reward.credit"));
  EXPECT_THAT(Error(std::string(kSmall) + "policy { kind: 17 }"), HasSubstr("policy.kind is 17, must be one of AUTO"));
}

TEST_F(ConfigTest, AFilesEnumValueIsAnsweredWithItsFullName) {
  EXPECT_THAT(Error("reward { credit: ONI }"), AllOf(HasSubstr("line 1"), HasSubstr("in full: CREDIT_ONI")));
  EXPECT_THAT(Error("reward { credit: BOTH }"), AllOf(HasSubstr("CREDIT_ACTION, CREDIT_ONI"), Not(HasSubstr("SPEC"))));
}

TEST_F(ConfigTest, AnOverrideMayNameAnEnumsValueShort) {
  for (const char* name : {"REWARD_MODEL_KIND_CLASSIFICATION", "CLASSIFICATION", "classification"}) {
    const auto experiment = LoadExperiment(Write(kSmall), {absl::StrCat("reward_model.kind=", name)});
    ASSERT_TRUE(experiment.ok()) << experiment.status();
    EXPECT_EQ(experiment->reward_model().kind(), v1::REWARD_MODEL_KIND_CLASSIFICATION);
  }
}

TEST_F(ConfigTest, AnOverrideMayWriteAWholeNumberShort) {
  const auto steps = [&](const std::string& text) {
    const auto experiment = LoadExperiment(Write(kSmall), {"total_steps=" + text});
    return experiment.ok() ? experiment->total_steps() : 0;
  };
  EXPECT_EQ(steps("1e6"), 1'000'000u);
  EXPECT_EQ(steps("1.5E+3"), 1500u);
  EXPECT_EQ(steps("2k"), 2000u);
  EXPECT_EQ(steps("2.5M"), 2'500'000u);
  EXPECT_EQ(steps("3G"), 3'000'000'000u);
  EXPECT_EQ(steps("9007199254740"), 9'007'199'254'740u);
  for (const char* none :
       {"1.5", "1e-1", "2.0005k", "k", "1e6k", "1e", "1e400", "+1", " 1", "1 M", "0x10", "", "1..2"}) {
    EXPECT_EQ(steps(none), 0u) << none;
  }
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=5G"}), HasSubstr("whole number")) << "more than the field holds";
}

TEST_F(ConfigTest, RefusesTextThatCannotBeShownOrSent) {
  EXPECT_THAT(Error(kSmall, {"name=\xff"}), AllOf(HasSubstr("name"), HasSubstr("\\377"), HasSubstr("UTF-8")));
  EXPECT_THAT(Error(kSmall, {"name=a\x1b[2J"}), AllOf(HasSubstr("name is `a\\033[2J`"), HasSubstr("control")));
  EXPECT_THAT(Error(kSmall, {"reward_model.label_set=a\n,b"}), HasSubstr("reward_model.label_set"));
  EXPECT_EQ(Error(kSmall, {"reward_model.goal=one\n\ttwo caf\xc3\xa9"}), "");
}

TEST_F(ConfigTest, CountsEnvironmentsWithoutOverflow) {
  EXPECT_THAT(
      Error(kSmall, {"actor.processes=65536", "actor.environments=65536", "learner.max_actors=65536"}),
      AllOf(HasSubstr("actor.processes is 65536, must be at most 15"), HasSubstr("65536"), HasSubstr("1000000")));
  EXPECT_THAT(Error(kSmall, {"actor.processes=2000"}),
              AllOf(HasSubstr("at most 1024"), HasSubstr("learner.max_actors")));
}

TEST_F(ConfigTest, MiniGridsNetworkReadsNormalisedNumbers) {
  EXPECT_TRUE(LoadExperiment(Write(kSmall), {})->policy().normalise_observations());
  EXPECT_THAT(Error(kSmall, {"policy.normalise_observations=false"}),
              HasSubstr("policy.normalise_observations is false"));
  EXPECT_FALSE(LoadExperiment(Write(kSmall), {"policy.kind=MLP"})->policy().normalise_observations());
  EXPECT_FALSE(LoadExperiment(Write(kSmall), {"environment.name=nethack/Score"})->policy().normalise_observations());
}

TEST_F(ConfigTest, SomeDefaultsFollowOtherFields) {
  const auto experiment = LoadExperiment(Write(kSmall), {"reward_model.kind=RANKING", "learner.learning_rate=3e-4",
                                                         "learner.gamma=0.9", "reward.intrinsic_coefficient=0.1"});
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->learner().final_learning_rate(), 3e-4);
  EXPECT_EQ(experiment->learner().intrinsic_gamma(), 0.9);
  EXPECT_EQ(experiment->reward().final_intrinsic_coefficient(), 0.1);
  EXPECT_EQ(experiment->reward_model().threshold(), 0);
  EXPECT_FALSE(experiment->reward_model().binary());
  EXPECT_EQ(LoadExperiment(Write(kSmall), {})->reward_model().threshold(), 0.5);
  EXPECT_TRUE(LoadExperiment(Write(kSmall), {})->reward_model().binary());
  EXPECT_EQ(LoadExperiment(Write(kSmall), {})->reward_model().threshold_kind(), v1::THRESHOLD_KIND_ABSOLUTE);
  const auto embedded =
      LoadExperiment(Write(kSmall), {"annotator.judge=JUDGE_KIND_EMBEDDED", "annotator.openai.prompt_file=/p.txt"});
  ASSERT_TRUE(embedded.ok()) << embedded.status();
  EXPECT_EQ(embedded->reward_model().threshold_kind(), v1::THRESHOLD_KIND_NEUTRAL);
  EXPECT_EQ(embedded->reward_model().threshold(), 0.2);
  EXPECT_THAT(Error(kSmall, {"annotator.judge=JUDGE_KIND_EMBEDDED"}), HasSubstr("annotator.openai.prompt_file"));
  EXPECT_THAT(Error(kSmall, {"reward_model.kind=RANKING", "reward_model.threshold_kind=GAP"}),
              HasSubstr("reward_model.threshold_kind is THRESHOLD_KIND_GAP"));
}

// The rules themselves.
TEST(FieldRules, GiveEveryFieldADefaultThatItsLimitsAllow) {
  v1::Experiment experiment;
  experiment.mutable_environment()->set_name("any");
  FillDefaults(&experiment);
  EXPECT_EQ(CheckFields(experiment), absl::OkStatus());
  ForEachField(experiment, [](const auto& holder, const auto* field, const std::string& path) {
    const v1::FieldRule& rule = RuleOf(field);
    const int sources =
        !rule.default_().empty() + !rule.default_from().empty() + !rule.computed_default().empty() + rule.required();
    // A text may be left out.
    if (field->type() == google::protobuf::FieldDescriptor::TYPE_STRING) {
      EXPECT_LE(sources, 1) << path;
    } else {
      EXPECT_EQ(sources, 1) << path;
    }
    EXPECT_EQ(rule.must().empty(), rule.pattern().empty() && !rule.required()) << path;
    if (!rule.default_from().empty()) {
      const auto* other = holder.GetDescriptor()->FindFieldByName(rule.default_from());
      ASSERT_NE(other, nullptr) << path;
      EXPECT_EQ(other->type(), google::protobuf::FieldDescriptor::TYPE_DOUBLE) << path;
      EXPECT_EQ(field->type(), google::protobuf::FieldDescriptor::TYPE_DOUBLE) << path;
    }
  });
}

// Counts are added, multiplied and held in ints: none may come near to wrapping.
TEST(FieldRules, BoundEveryWholeNumberButSeeds) {
  ForEachField(v1::Experiment(), [](const auto&, const auto* field, const std::string& path) {
    if (path == "seed") return;
    const bool narrow = field->type() == google::protobuf::FieldDescriptor::TYPE_UINT32;
    if (!narrow && field->type() != google::protobuf::FieldDescriptor::TYPE_UINT64) return;
    EXPECT_TRUE(RuleOf(field).has_max()) << path;
    EXPECT_LE(RuleOf(field).max(), narrow ? 1e9 : 9e18) << path;
  });
}

TEST(FieldRules, SayWhatAFieldTakes) {
  const auto limits = [](const google::protobuf::Descriptor* type, const char* name) {
    return LimitsText(type->FindFieldByName(name));
  };
  EXPECT_EQ(limits(v1::LearnerConfig::descriptor(), "gamma"), "between 0 and 1");
  EXPECT_EQ(limits(v1::LearnerConfig::descriptor(), "ppo_clip"), "above 0");
  EXPECT_EQ(limits(v1::LearnerConfig::descriptor(), "learning_rate"), "at least 0");
  EXPECT_EQ(limits(v1::LearnerConfig::descriptor(), "max_captions"), "between 1000 and 1e9");
  EXPECT_EQ(limits(v1::PolicyConfig::descriptor(), "value_bins"), "0 or between 5 and 10000");
  EXPECT_EQ(limits(v1::PolicyConfig::descriptor(), "value_low"), "a finite number");
  EXPECT_EQ(limits(v1::RewardTrainingConfig::descriptor(), "cpu_share"), "above 0 and at most 1");
  EXPECT_EQ(limits(v1::RewardTrainingConfig::descriptor(), "dropout"), "at least 0 and below 1");
  EXPECT_EQ(limits(v1::RewardConfig::descriptor(), "credit"), "one of ACTION, ONI");
}

// A change to any field that a resume must not change is found, and a change to the others is not.
TEST(FieldRules, DecideWhatAResumeMayChange) {
  v1::Experiment was;
  FillDefaults(&was);
  for (const std::string& path : FieldPaths(was)) {
    v1::Experiment is = was;
    google::protobuf::Message* holder = &is;
    const std::vector<std::string> names = absl::StrSplit(path, '.');
    for (size_t i = 0; i + 1 < names.size(); ++i) {
      holder = holder->GetReflection()->MutableMessage(holder, holder->GetDescriptor()->FindFieldByName(names[i]));
    }
    const auto* field = holder->GetDescriptor()->FindFieldByName(names.back());
    std::string other = "7";
    if (field->enum_type() != nullptr) {
      const std::string last = field->enum_type()->value(field->enum_type()->value_count() - 1)->name();
      other = FieldText(*holder, field) == last ? field->enum_type()->value(1)->name() : last;
    } else if (field->type() == google::protobuf::FieldDescriptor::TYPE_BOOL) {
      other = FieldText(*holder, field) == "true" ? "false" : "true";
    }
    ASSERT_EQ(SetField(path, other, field, holder), absl::OkStatus());
    const std::string difference = ResumeDifference(was, is);
    if (RuleOf(field).resume() == v1::FieldRule::FREE) {
      EXPECT_EQ(difference, "") << path;
    } else {
      EXPECT_THAT(difference, testing::StartsWith(path + " was ")) << path;
    }
  }
}

TEST(FieldRules, LetARunOfAnOlderReleaseGoOnWithTheDefaultsOfNewFields) {
  v1::Experiment old, now;
  FillDefaults(&now);
  EXPECT_EQ(ResumeDifference(old, now), "");
  now.mutable_reward()->mutable_novelty()->set_coefficient(1);
  EXPECT_EQ(ResumeDifference(old, now), "reward.novelty.coefficient was 0 and is now 1");
}

TEST_F(ConfigTest, NamesAnOverrideThatIsNone) {
  EXPECT_THAT(Error(kSmall, {"seed"}), AllOf(HasSubstr("`seed`"), HasSubstr("field=value")));
  EXPECT_THAT(Error(kSmall, {"learner=3"}), AllOf(HasSubstr("learner"), HasSubstr("learning_rate")));
  EXPECT_THAT(Error(kSmall, {"seed.x=3"}), AllOf(HasSubstr("`seed`"), HasSubstr("no fields")));
  EXPECT_THAT(Error(kSmall, {""}), HasSubstr("field=value"));
}

TEST_F(ConfigTest, NamesAnImpossibleValueAndWhatWouldDo) {
  EXPECT_THAT(Error(kSmall, {"learner.batch_size=1000"}),
              AllOf(HasSubstr("learner.batch_size is 1000"), HasSubstr("multiple"), HasSubstr("32")));
  EXPECT_THAT(Error(kSmall, {"actor.groups=3"}), AllOf(HasSubstr("actor.groups is 3"), HasSubstr("64")));
  EXPECT_THAT(Error(kSmall, {"learner.gamma=1.5"}), HasSubstr("learner.gamma is 1.5"));
  EXPECT_THAT(Error(kSmall, {"learner.device=tpu"}), AllOf(HasSubstr("learner.device is `tpu`"), HasSubstr("cuda")));
  EXPECT_THAT(Error(kSmall, {"learner.learning_rate=nan"}), HasSubstr("learner.learning_rate is nan"));
  EXPECT_THAT(Error(kSmall, {"total_steps=0"}), HasSubstr("total_steps is 0"));
  EXPECT_THAT(Error(kSmall, {"reward_model.label_set=one"}), HasSubstr("at least two labels"));
  EXPECT_THAT(Error(kSmall, {"reward_model.label_set=bad,,good"}), HasSubstr("at least two labels"));
  EXPECT_THAT(Error(kSmall, {"reward_model.label_set=good,good"}), HasSubstr("that differ"));
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
