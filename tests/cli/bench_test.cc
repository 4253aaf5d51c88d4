#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/bench/bench_env.h"

namespace sibyl {
namespace {

using ::testing::HasSubstr;

struct Said {
  int status = -1;
  std::string text;
};

Said RunSibyl(const std::string& arguments) {
  Said said;
  std::FILE* out = popen(("exec " SIBYL_BIN_DIR "/sibyl " + arguments + " 2>&1").c_str(), "r");
  char bytes[4096];
  for (size_t n; (n = fread(bytes, 1, sizeof bytes, out)) > 0;) said.text.append(bytes, n);
  said.status = WEXITSTATUS(pclose(out));
  return said;
}

TEST(BenchEnv, CountsEachStepOfEachEnvironment) {
  EnvironmentBenchmark benchmark;
  benchmark.environment = "minigrid/Empty-5x5";
  benchmark.environments = 6;
  benchmark.threads = 2;
  benchmark.time = absl::Milliseconds(300);
  const auto speed = MeasureEnvironments(benchmark);
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_GT(speed->steps, 0u);
  EXPECT_EQ(speed->steps % 3, 0u) << "each thread plays its three in turn";
  EXPECT_GT(speed->episodes, 0u);
  EXPECT_GE(speed->wall_seconds, 0.3);
  EXPECT_GT(speed->cpu_seconds, 0);
}

TEST(BenchEnv, PrintsOneLineOfJson) {
  const Said said = RunSibyl("bench env minigrid/Empty-5x5 --envs 4 --threads 2 --seconds 1");
  ASSERT_EQ(said.status, 0) << said.text;
  const auto line = nlohmann::json::parse(said.text);
  for (const char* key : {"steps_per_second", "cpu_seconds", "limit_steps_per_second"}) {
    EXPECT_GT(line.value(key, 0.0), 0) << key;
  }
  EXPECT_TRUE(line.contains("memory_bytes_per_env"));
  EXPECT_NEAR(line.value("share_of_limit", 0.0),
              line.value("steps_per_second", 0.0) / line.value("limit_steps_per_second", 1.0), 1e-9);
}

TEST(BenchTrain, MeasuresARealRun) {
  const Said said =
      RunSibyl("bench train " SIBYL_SOURCE_DIR "/configs/minigrid_keycorridor.textproto --seconds 3 --warmup 1");
  ASSERT_EQ(said.status, 0) << said.text;
  const auto line = nlohmann::json::parse(said.text);
  for (const char* key : {"steps_per_second", "cpu_seconds", "cpu_seconds_per_million_steps", "bytes_per_step",
                          "training_busy_share", "inference_busy_share", "inference_batch_rows",
                          "limit_inference_rows_per_second", "limit_training_steps_per_second",
                          "limit_environment_steps_per_second", "limit_steps_per_second", "share_of_limit"}) {
    EXPECT_GT(line.value(key, 0.0), 0) << key;
  }
  for (const char* program : {"sibyl-learner", "sibyl-actor", "sibyl-reward-model", "sibyl-annotator"}) {
    EXPECT_TRUE(line["cpu_seconds_by_program"].contains(program)) << program;
  }
}

TEST(BenchTrain, ComparesTwoConfigurationsInPairs) {
  const Said said = RunSibyl("bench train " SIBYL_SOURCE_DIR
                             "/configs/minigrid_keycorridor.textproto --seconds 1 --warmup 1 --pairs 2 "
                             "--set learner.epochs=1 --against learner.epochs=2");
  ASSERT_EQ(said.status, 0) << said.text;
  const auto line = nlohmann::json::parse(said.text);
  EXPECT_EQ(line["ratios"].size(), 2u);
  for (const char* side : {"this", "other"}) {
    EXPECT_EQ(line[side]["steps_per_second"].size(), 2u);
    EXPECT_GT(line[side]["cpu_seconds_by_program"][1].value("sibyl-learner", 0.0), 0) << side;
  }
  EXPECT_NEAR(line["ratios"][1],
              line["this"]["steps_per_second"][1].get<double>() / line["other"]["steps_per_second"][1].get<double>(),
              1e-9);
  EXPECT_LE(line["ratio_low"], line["ratio"]);
  EXPECT_GE(line["ratio_high"], line["ratio"]);
}

TEST(BenchTrain, SaysWhereNothingWasTrainedOn) {
  const Said said = RunSibyl("bench train " SIBYL_SOURCE_DIR
                             "/configs/minigrid_keycorridor.textproto --seconds 1 --warmup 1 "
                             "--set learner.epochs=200");
  EXPECT_EQ(said.status, 1);
  EXPECT_THAT(said.text, HasSubstr("no batch was trained on within 1s; measure longer (--seconds)"));
}

TEST(BenchTrain, SaysWhatIsWrong) {
  EXPECT_THAT(RunSibyl("bench train").text, HasSubstr("name one configuration"));
  EXPECT_THAT(RunSibyl("bench train x.textproto --seconds 0").text, HasSubstr("--seconds is `0`"));
  const Said missing = RunSibyl("bench train /nowhere/x.textproto");
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.text, HasSubstr("/nowhere/x.textproto"));
}

TEST(BenchRewards, MeasuresStepsWhileCaptionsGetNewScores) {
  const Said said = RunSibyl("bench rewards --captions 20000 --seconds 0.4 --budget 0.2");
  ASSERT_EQ(said.status, 0) << said.text;
  const auto line = nlohmann::json::parse(said.text);
  for (const char* key : {"steps_per_second", "limit_steps_per_second", "cpu_seconds_per_million_steps", "cpu_seconds",
                          "rescored_captions_per_second", "new_caption_nanoseconds", "memory_bytes_per_caption"}) {
    EXPECT_GT(line.value(key, 0.0), 0) << key;
  }
  const Said wrong = RunSibyl("bench rewards --captions 0");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_THAT(wrong.text, HasSubstr("--captions must be from 1"));
}

TEST(BenchTransport, MeasuresARealStream) {
  const Said said = RunSibyl("bench transport --actors 2 --environments 8 --groups 2 --pin 1 --seconds 2 --warmup 1");
  ASSERT_EQ(said.status, 0) << said.text;
  const auto line = nlohmann::json::parse(said.text);
  for (const char* key :
       {"steps_per_second", "cpu_seconds", "learner_cpu_seconds_per_million_steps",
        "actor_cpu_seconds_per_million_steps", "steps_per_learner_core_second", "inference_batch_rows"}) {
    EXPECT_GT(line.value(key, 0.0), 0) << key;
  }
  EXPECT_EQ(line.value("raw_bytes_per_step", 0), 1659 + 1659 + 27 * 8 + 256) << "chars, colors, blstats, message";
  EXPECT_GT(line.value("bytes_per_step", 0.0), 20) << "real games change";
  EXPECT_LT(line.value("bytes_per_step", 0.0), 200);
}

TEST(BenchTransport, SaysWhatIsWrong) {
  EXPECT_THAT(RunSibyl("bench transport --actors none").text, HasSubstr("--actors is `none`"));
  EXPECT_THAT(RunSibyl("bench transport --pin yes").text, HasSubstr("--pin is `yes`, must be 0 or 1"));
  EXPECT_THAT(RunSibyl("bench transport nethack").text, HasSubstr("`nethack`"));
  EXPECT_THAT(RunSibyl("bench transport --environments 7").text, HasSubstr("actor.groups"));
}

TEST(BenchEnv, SaysWhatIsWrong) {
  EXPECT_THAT(RunSibyl("bench env nethack/Scores").text, HasSubstr("nethack/Score"));
  EXPECT_THAT(RunSibyl("bench env minigrid/Empty-5x5 --envs 0").text, HasSubstr("--envs is `0`"));
  EXPECT_THAT(RunSibyl("bench env minigrid/Empty-5x5 --envs 1 --threads 2").text, HasSubstr("at least --threads"));
  EXPECT_THAT(RunSibyl("bench").text, HasSubstr("there are: env, train, transport, rewards"));
  EXPECT_EQ(RunSibyl("bench stones").status, 2);
}

}  // namespace
}  // namespace sibyl
