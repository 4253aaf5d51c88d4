// The parts of `sibyl train` that start no process.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "cli/arguments.h"
#include "cli/ports.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/scrape.h"
#include "cli/summary.h"
#include "common/runtime/files.h"
#include "common/metrics.h"

namespace sibyl::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const std::vector<Flag>& Flags() {
  static const auto& flags = *new std::vector<Flag>{{"run_dir", "DIR"}, {"set", "field=value"}, {"resume", ""}};
  return flags;
}

TEST(Arguments, TakesFlagsAnywhereAndInBothForms) {
  const auto parsed =
      ParseArguments("sibyl train", Flags(), {"--set", "a=1", "file", "--run_dir=x", "--set=b=2", "--resume"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->positional, ElementsAre("file"));
  EXPECT_EQ(parsed->Value("run_dir"), "x");
  EXPECT_THAT(parsed->Values("set"), ElementsAre("a=1", "b=2"));
  EXPECT_TRUE(parsed->Has("resume"));
  EXPECT_THAT(ParseArguments("sibyl train", Flags(), {"--", "--resume"})->positional, ElementsAre("--resume"));
}

TEST(Arguments, NamesWhatItDoesNotKnowAndWhatThereIs) {
  const auto error = [](const std::vector<std::string>& arguments) {
    return std::string(ParseArguments("sibyl train", Flags(), arguments).status().message());
  };
  EXPECT_THAT(error({"--rundir=x"}),
              AllOf(HasSubstr("`--rundir=x`"), HasSubstr("--run_dir DIR"), HasSubstr("--resume")));
  EXPECT_THAT(error({"--run_dir"}), HasSubstr("--run_dir needs a value"));
  EXPECT_THAT(error({"--resume=yes"}), AllOf(HasSubstr("takes no value"), HasSubstr("--resume=yes")));
}

TEST(Ports, AreFreeDistinctAndOutsideTheRangeOfOutgoingConnections) {
  const auto ports = FreePorts(20, 7);
  ASSERT_TRUE(ports.ok()) << ports.status();
  EXPECT_EQ(std::set<int>(ports->begin(), ports->end()).size(), 20u);
  const auto range = ReadFile("/proc/sys/net/ipv4/ip_local_port_range");
  int low = 0, high = 0;
  ASSERT_EQ(std::sscanf(range->c_str(), "%d %d", &low, &high), 2);
  for (const int port : *ports) EXPECT_TRUE(port < low || port > high) << port;
}

TEST(Ports, PassesOverOneThatIsTaken) {
  const int taken = FreePorts(1, 11)->front();
  Metrics metrics;
  ASSERT_TRUE(metrics.Serve(absl::StrCat("127.0.0.1:", taken)).ok());
  EXPECT_NE(FreePorts(1, 11)->front(), taken);
}

TEST(Scrape, ReadsPrometheusText) {
  const Samples samples = ParseSamples(
      "# HELP a_total Things.\n# TYPE a_total counter\na_total 12\n"
      "b{kind=\"x y\",other=\"}\"} 2.5 1700000000\r\n\nnan NaN\ninf +Inf\nbroken\nworse one\n");
  EXPECT_EQ(samples.at("a_total"), 12);
  EXPECT_EQ(samples.at("b{kind=\"x y\",other=\"}\"}"), 2.5);
  EXPECT_TRUE(std::isnan(samples.at("nan")));
  EXPECT_TRUE(std::isinf(samples.at("inf")));
  EXPECT_EQ(samples.size(), 4u);
  EXPECT_TRUE(ParseSamples("").empty());
}

TEST(Scrape, AsksAllAtOnceAndGivesNothingForOneThatIsAway) {
  Metrics metrics;
  metrics.Gauge("sibyl_test_value", "A value.").Set(4);
  ASSERT_TRUE(metrics.Serve("127.0.0.1:0").ok());
  const auto answers =
      Scrape({absl::StrCat("127.0.0.1:", FreePorts(1, 3)->front()), absl::StrCat("127.0.0.1:", metrics.port())},
             absl::Seconds(20));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_FALSE(answers[0].has_value());
  ASSERT_TRUE(answers[1].has_value());
  EXPECT_EQ(answers[1]->at("sibyl_test_value"), 4);
}

TEST(Counts, AreShort) {
  EXPECT_EQ(ShortCount(0), "0");
  EXPECT_EQ(ShortCount(999), "999");
  EXPECT_EQ(ShortCount(5234), "5.23k");
  EXPECT_EQ(ShortCount(412'345), "412k");
  EXPECT_EQ(ShortCount(999'700), "1M");
  EXPECT_EQ(ShortCount(1'250'000), "1.25M");
  EXPECT_EQ(ShortCount(2e9), "2G");
}

TEST(Durations, AreShort) {
  EXPECT_EQ(ShortDuration(53.2), "53s");
  EXPECT_EQ(ShortDuration(113), "1m53s");
  EXPECT_EQ(ShortDuration(7500), "2h05m");
  EXPECT_EQ(ShortDuration(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_EQ(ShortDuration(-1), "0s");
}

RunFigures SomeFigures() {
  RunFigures figures;
  figures.total_steps = 1e6;
  UpdateFigures(ParseSamples("sibyl_learner_steps_total 412345\nsibyl_learner_episodes_total 3100\n"
                             "sibyl_learner_success_rate 0.35\nsibyl_learner_mean_return 0.3\n"
                             "sibyl_learner_captions 12\nsibyl_learner_policy_lag_steps 1.84\n"
                             "sibyl_reward_model_captions_labelled 11\nsibyl_annotator_waiting_queries 1\n"),
                &figures);
  figures.steps_per_second = 5200;
  return figures;
}

TEST(ProgressLine, SaysWhatIsKnown) {
  EXPECT_EQ(
      ProgressLine(SomeFigures(), 200),
      "step 412k/1M 41% | 5.2k/s | 3.1k ep | success 0.35 | 12 captions 11 labels 1 waiting | lag 1.8 | 1m53s left");
}

TEST(ProgressLine, SaysWhyNothingIsAsked) {
  RunFigures figures = SomeFigures();
  const auto line = [&](int money, int outage) {
    UpdateFigures(ParseSamples(absl::StrCat("sibyl_annotator_asking_paused{reason=\"money\"} ", money,
                                            "\nsibyl_annotator_asking_paused{reason=\"outage\"} ", outage, "\n")),
                  &figures);
    return ProgressLine(figures, 200);
  };
  EXPECT_THAT(line(1, 0), HasSubstr("1 waiting, asking paused: money |"));
  EXPECT_THAT(line(0, 1), HasSubstr("asking paused: outage |"));
  EXPECT_THAT(line(0, 0), Not(HasSubstr("paused")));
}

TEST(ProgressLine, ShowsADashForWhatIsNot) {
  RunFigures figures;
  figures.total_steps = 1e6;
  EXPECT_EQ(ProgressLine(figures, 200),
            "step -/1M 0% | -/s | - ep | success - | - captions - labels - waiting | lag - | - left");
}

TEST(ProgressLine, ShowsTheReturnWhereNothingSucceedsButSomethingIsEarned) {
  RunFigures figures = SomeFigures();
  figures.success_rate = 0;
  figures.mean_return = 123.456;
  EXPECT_THAT(ProgressLine(figures, 200), AllOf(HasSubstr("| return 123.46 |"), Not(HasSubstr("success"))));
}

TEST(ProgressLine, IsNeverWiderThanTheTerminalAndLeavesOutTheLeastFirst) {
  for (int width = 0; width < 120; ++width) EXPECT_LE(ProgressLine(SomeFigures(), width).size(), size_t(width));
  EXPECT_EQ(ProgressLine(SomeFigures(), 60), "step 412k/1M 41% | 5.2k/s | success 0.35 | 1m53s left");
}

TEST(StepRate, IsThatOfTheLastQuarterMinuteAndBeginsAnewWhenStepsGoBack) {
  StepRate rate;
  const absl::Time begin = absl::UnixEpoch();
  EXPECT_FALSE(rate.PerSecond().has_value());
  rate.Add(begin, 0);
  EXPECT_FALSE(rate.PerSecond().has_value());
  for (int i = 1; i <= 100; ++i) rate.Add(begin + absl::Seconds(i), i <= 50 ? 0 : 10 * (i - 50));
  EXPECT_DOUBLE_EQ(*rate.PerSecond(), 10);
  rate.Add(begin + absl::Seconds(101), 100);
  EXPECT_FALSE(rate.PerSecond().has_value());
}

TEST(Screen, PrintsALineEveryTenSecondsWhereThereIsNoTerminal) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  Screen screen(out, false);
  int lines = 0;
  for (int second = 0; second <= 35; ++second) {
    screen.Progress(absl::FromUnixSeconds(second), [&](int) { return absl::StrCat("line ", ++lines); });
  }
  std::fclose(out);
  EXPECT_STREQ(text, "line 1\nline 2\nline 3\n");
  free(text);
}

TEST(Screen, RewritesOneLineOnATerminalAndKeepsEventsAboveIt) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  Screen screen(out, true);
  screen.Progress(absl::FromUnixSeconds(1), [](int width) { return absl::StrCat("width ", width); });
  screen.Event("something");
  screen.Close();
  std::fclose(out);
  EXPECT_THAT(text, testing::MatchesRegex("\rwidth 79\x1b\\[K\r\x1b\\[K..:..:.. something\nwidth 79\n"));
  free(text);
}

TEST(LastLines, AreThoseAtTheEnd) {
  const std::string path = testing::TempDir() + "last_lines." + std::to_string(getpid());
  std::string text;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&text, "line ", i, "\n");
  ASSERT_TRUE(WriteFileDurably(path, text).ok());
  EXPECT_THAT(LastLines(path, 2), ElementsAre("line 998", "line 999"));
  ASSERT_TRUE(WriteFileDurably(path, "one\ntwo").ok());
  EXPECT_THAT(LastLines(path, 5), ElementsAre("one", "two"));
  std::filesystem::remove(path);
  EXPECT_TRUE(LastLines(path, 5).empty());
}

v1::Experiment SomeExperiment() {
  v1::Experiment experiment;
  experiment.set_name("trial");
  experiment.set_seed(3);
  experiment.mutable_environment()->set_name("debug/Alignment");
  experiment.mutable_environment()->set_caption_rule(v1::CAPTION_RULE_DIGITS);
  experiment.mutable_reward()->set_intrinsic_coefficient(0.1);
  experiment.mutable_reward_model()->set_goal("a goal");
  experiment.mutable_annotator()->set_judge(v1::JUDGE_KIND_RULES);
  experiment.mutable_annotator()->set_rules_file("/x/some.rules");
  return experiment;
}

RunOutcome SomeOutcome() {
  RunOutcome outcome;
  outcome.kind = RunOutcome::kFinished;
  outcome.figures = SomeFigures();
  outcome.figures.captions_asked = 50;
  outcome.peak_memory_bytes = {{"learner", 300 << 20}};
  outcome.restarts = {{"learner", 0}, {"actor-0", 2}};
  outcome.wall_time = absl::Seconds(90);
  return outcome;
}

TEST(Summary, TakesTheLearnersFiguresAndItsOwn) {
  const auto learner = nlohmann::json::parse(
      R"({"steps": 1000000, "success_rate": 0.9, "judge": "rules:some.rules@12", "figures": {"depth": 2}, "extra": 1})");
  const auto summary = Summarise(SomeExperiment(), SomeOutcome(), learner);
  EXPECT_EQ(summary["steps"], 1000000);
  EXPECT_EQ(summary["success_rate"], 0.9);
  EXPECT_EQ(summary["judge"], "rules:some.rules@12");
  EXPECT_EQ(summary["extra"], 1);
  // Only the metrics know these.
  EXPECT_EQ(summary["captions_asked"], 50);
  EXPECT_EQ(summary["label_share_of_steps"], 50 / 1e6);
  EXPECT_EQ(summary["policy_lag"], 1.84);
  // Nobody knows this one.
  EXPECT_TRUE(summary["intrinsic_share_of_reward"].is_null());
  EXPECT_EQ(summary["outcome"], "finished");
  EXPECT_EQ(summary["name"], "trial");
  EXPECT_EQ(summary["seed"], 3);
  EXPECT_EQ(summary["environment"], "debug/Alignment");
  EXPECT_EQ(summary["goal"], "a goal");
  EXPECT_EQ(summary["caption_rule"], "CAPTION_RULE_DIGITS");
  EXPECT_EQ(summary["wall_seconds"], 90);
  EXPECT_EQ(summary["peak_memory_bytes"]["learner"], 300 << 20);
  EXPECT_EQ(summary["restarts"]["actor-0"], 2);
}

TEST(Summary, HasEveryKeyEvenWhereTheLearnerWroteNothing) {
  RunOutcome outcome;
  outcome.reason = "learner was killed";
  const auto summary = Summarise(SomeExperiment(), outcome, nlohmann::json::object());
  for (const char* key : {"steps",
                          "steps_per_second",
                          "wall_seconds",
                          "episodes",
                          "abandoned_episodes",
                          "success_rate",
                          "mean_return",
                          "captions_seen",
                          "captions_asked",
                          "captions_labelled",
                          "label_share_of_steps",
                          "intrinsic_share_of_reward",
                          "unlabelled_share_of_steps",
                          "policy_lag",
                          "reward_age_steps",
                          "goal",
                          "prompt",
                          "judge",
                          "caption_rule",
                          "peak_memory_bytes",
                          "outcome",
                          "name",
                          "seed",
                          "environment",
                          "restarts"}) {
    EXPECT_TRUE(summary.contains(key)) << key;
  }
  EXPECT_EQ(summary["outcome"], "failed: learner was killed");
  EXPECT_EQ(summary["judge"], "rules:some.rules");
}

TEST(Summary, IsAlignedForAReader) {
  const std::string text = SummaryText(Summarise(SomeExperiment(), SomeOutcome(), nlohmann::json::object()));
  EXPECT_THAT(text, AllOf(HasSubstr("412,345\n"), HasSubstr("35.0 %"), HasSubstr("1m30s"), HasSubstr("0.0121 %"),
                          HasSubstr("learner 300 MiB"), HasSubstr("actor-0 2\n")));
  std::set<size_t> columns;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    columns.insert(line.find_first_not_of(' ', line.find("  ", 2)));
  }
  EXPECT_EQ(columns.size(), 1u) << text;
}

TEST(Summary, ReadsNothingFromAFileThatIsNotOne) {
  const std::string path = testing::TempDir() + "learner_summary." + std::to_string(getpid());
  EXPECT_TRUE(ReadLearnerSummary(path).empty());
  ASSERT_TRUE(WriteFileDurably(path, "{\"steps\": ").ok());
  EXPECT_TRUE(ReadLearnerSummary(path).empty());
  ASSERT_TRUE(WriteFileDurably(path, "[1]").ok());
  EXPECT_TRUE(ReadLearnerSummary(path).empty());
  ASSERT_TRUE(WriteFileDurably(path, "{\"steps\": 5}").ok());
  EXPECT_EQ(ReadLearnerSummary(path)["steps"], 5);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace sibyl::cli
