#include "policy/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/random.h"
#include "environments/debug/alignment.h"
#include "environments/registry.h"
#include "nlohmann/json.hpp"
#include "policy/mlp.h"
#include "policy/weights.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

std::shared_ptr<Policy> PolicyFor(const std::string& environment, uint64_t seed = 1) {
  torch::manual_seed(seed);
  const auto policy = *MakePolicy({}, *FindEnvironmentSpec(environment));
  // Far from uniform, so that it matters what is seen, remembered and drawn.
  torch::NoGradGuard no_grad;
  for (auto& parameter : policy->named_parameters()) {
    if (parameter.key() == "actor.weight") parameter.value() *= 10;
  }
  // Inputs that were never normalised would make every draw the same.
  if (auto statistics = policy->input_statistics(); !statistics.is_empty()) {
    statistics->Follow(torch::full_like(statistics->mean(), 2), torch::full_like(statistics->mean(), 10), 1000);
  }
  return policy;
}

std::vector<EpisodeResult> Play(const std::string& environment, Policy& policy, const EvaluationOptions& options) {
  return *PlayEpisodes(
      policy, [&] { return MakeEnvironment(environment); }, options);
}

std::string Text(const std::vector<EpisodeResult>& episodes) {
  std::string text;
  for (const EpisodeResult& e : episodes)
    absl::StrAppendFormat(&text, "%.17g %d %d; ", e.episode_return, e.success, e.length);
  return text;
}

TEST(PlayEpisodes, PlaysTheSeedsItWasGivenOnceEach) {
  EvaluationOptions options;
  options.seed = 500;
  options.episodes = 21;
  options.environments = 4;
  const auto episodes = Play("debug/Alignment", *PolicyFor("debug/Alignment"), options);
  ASSERT_EQ(episodes.size(), 21u);
  for (uint64_t i = 0; i < 21; ++i) {
    const uint64_t seed = 500 + i;
    double episode_return = 0;
    for (int k = 1; k <= AlignmentLength(seed); ++k) episode_return += AlignmentReward(seed, k);
    EXPECT_EQ(episodes[i].length, static_cast<uint64_t>(AlignmentLength(seed)));
    EXPECT_DOUBLE_EQ(episodes[i].episode_return, episode_return);
    EXPECT_EQ(episodes[i].success, seed % 2 == 1);
    EXPECT_THAT(episodes[i].figures, ElementsAre(AlignmentLength(seed)));
  }
}

TEST(PlayEpisodes, DependsOnTheSeedsAloneNotOnWhatIsPlayedBeside) {
  const std::string environment = "minigrid/Empty-Random-6x6";
  const auto policy = PolicyFor(environment);
  EvaluationOptions options;
  options.episodes = 20;
  options.environments = 1;
  const std::string alone = Text(Play(environment, *policy, options));
  options.environments = 7;
  EXPECT_EQ(Text(Play(environment, *policy, options)), alone);
  options.environments = 64;
  EXPECT_EQ(Text(Play(environment, *policy, options)), alone);
  options.seed += 1;
  EXPECT_NE(Text(Play(environment, *policy, options)), alone);
}

TEST(PlayEpisodes, GreedyTakesTheLikeliestAction) {
  const std::string environment = "minigrid/Empty-Random-6x6";
  const auto policy = PolicyFor(environment);
  EvaluationOptions options;
  options.episodes = 10;
  const std::string drawn = Text(Play(environment, *policy, options));
  options.greedy = true;
  EXPECT_NE(Text(Play(environment, *policy, options)), drawn);
}

// Plays the first action, and writes down what it is told.
class Listener : public Policy {
 public:
  explicit Listener(const v1::EnvironmentSpec& spec) : Policy(spec) {}
  PolicyOutput Forward(const Observations& observations, const torch::Tensor& first, const torch::Tensor&) override {
    told.push_back(observations.back().clone());
    torch::Tensor action = torch::zeros({1, first.size(1), distribution().parameters()});
    action.select(-1, 0).fill_(50);
    const torch::Tensor value = torch::zeros({1, first.size(1), 1});
    return {action, value.unsqueeze(-1), value, torch::zeros({1, first.size(1), 0})};
  }
  int64_t state_size() const override { return 0; }
  Observations told;
};

TEST(PlayEpisodes, TellsThePolicyItsLastActionAndRewards) {
  v1::Experiment experiment;
  experiment.mutable_policy()->set_last_action(true);
  experiment.mutable_policy()->set_last_rewards(true);
  experiment.mutable_reward()->set_intrinsic_coefficient(0.1);
  experiment.mutable_reward()->set_extrinsic_scale(2);
  experiment.mutable_reward()->set_extrinsic_clip(0.9);
  experiment.mutable_reward()->set_count_exponent(1);
  const v1::EnvironmentSpec spec = *FindEnvironmentSpec("debug/Alignment");
  EvaluationFeedback told{Feedback(experiment, spec), v1::CAPTION_RULE_EXACT, 1000};
  constexpr uint64_t kSeed = 47;  // 3 steps, terminated
  ASSERT_EQ(AlignmentLength(kSeed), 3);
  const std::string paying = AlignmentCaption(kSeed, 0);
  ASSERT_EQ(AlignmentCaption(kSeed, 3), paying);
  told.caption_rewards[CaptionId(paying)] = 0.5f;
  Listener listener(told.feedback.PolicySpec());
  EvaluationOptions options;
  options.seed = kSeed;
  options.episodes = 2;
  options.environments = 1;
  options.told = &told;
  ASSERT_TRUE(PlayEpisodes(
                  listener, [] { return MakeEnvironment("debug/Alignment"); }, options)
                  .ok());
  // The first episode has 3 steps, and the one of seed 48 begins after them.
  ASSERT_GT(listener.told.size(), 4u);
  const auto at = [&](size_t step, int64_t i) { return listener.told[step][0][0][i].item<float>(); };
  for (const size_t start : {0u, 3u}) {
    for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(at(start, i), 0);
  }
  for (const size_t step : {1u, 2u}) {
    EXPECT_EQ(at(step, 0), 1);
    for (int64_t i = 1; i < 4; ++i) EXPECT_EQ(at(step, i), 0);
    EXPECT_NEAR(at(step, 4), std::min(0.9f, 2 * AlignmentReward(kSeed, static_cast<int>(step))), 1e-6);
    EXPECT_EQ(at(step, 5), 0);
  }
  // Seed 48 plays 4 steps; the caption of its step 3 is that of its start, and pays nothing: it is another text.
  EXPECT_EQ(at(6, 5), 0);
}

TEST(PlayEpisodes, PaysARepeatedCaptionLess) {
  v1::Experiment experiment;
  experiment.mutable_policy()->set_last_rewards(true);
  experiment.mutable_reward()->set_intrinsic_coefficient(0.1);
  experiment.mutable_reward()->set_extrinsic_clip(1);
  experiment.mutable_reward()->set_count_exponent(1);
  const v1::EnvironmentSpec spec = *FindEnvironmentSpec("debug/Alignment");
  EvaluationFeedback told{Feedback(experiment, spec), v1::CAPTION_RULE_EXACT, 1000};
  constexpr uint64_t kSeed = 93;  // 49 steps
  told.caption_rewards[CaptionId(AlignmentCaption(kSeed, 0))] = 0.5f;
  Listener listener(told.feedback.PolicySpec());
  EvaluationOptions options;
  options.seed = kSeed;
  options.episodes = 1;
  options.environments = 1;
  options.told = &told;
  ASSERT_TRUE(PlayEpisodes(
                  listener, [] { return MakeEnvironment("debug/Alignment"); }, options)
                  .ok());
  int count = 1;  // with the first observation's
  for (size_t step = 1; step < listener.told.size(); ++step) {
    const bool paid = AlignmentCaption(kSeed, static_cast<int>(step)) == AlignmentCaption(kSeed, 0);
    EXPECT_NEAR(listener.told[step][0][0][1].item<float>(), paid ? 0.5 / ++count : 0, 1e-6) << step;
  }
  EXPECT_GT(count, 3);
}

TEST(PlayEpisodes, EndsWhenItIsStopped) {
  const auto policy = PolicyFor("debug/Alignment");
  std::stop_source source;
  source.request_stop();
  EvaluationOptions options;
  options.stop = source.get_token();
  EXPECT_TRUE(absl::IsCancelled(PlayEpisodes(
                                    *policy, [] { return MakeEnvironment("debug/Alignment"); }, options)
                                    .status()));
}

TEST(PlayEpisodes, RefusesSeedsThatTrainingMayHavePlayed) {
  const auto policy = PolicyFor("debug/Alignment");
  const auto make = [] { return MakeEnvironment("debug/Alignment"); };
  EvaluationOptions options;
  options.seed = kFirstTrainingSeed - 3;
  options.episodes = 3;
  EXPECT_TRUE(PlayEpisodes(*policy, make, options).ok());
  options.episodes = 4;
  const auto refused = PlayEpisodes(*policy, make, options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("4294967293"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("at most 4294967296"));
  options.seed = ~uint64_t{0};
  EXPECT_FALSE(PlayEpisodes(*policy, make, options).ok());
  options.episodes = 0;
  EXPECT_FALSE(PlayEpisodes(*policy, make, options).ok());
}

std::vector<EpisodeResult> Episodes(int successes, int episodes) {
  std::vector<EpisodeResult> results(episodes);
  for (int i = 0; i < episodes; ++i) results[i] = {i < successes ? 1.0 : 0.0, i < successes, 10u + i, {2.0 * i}};
  return results;
}

TEST(Summarize, GivesWilsonsIntervalOfTheSuccessRate) {
  const Interval half = Summarize(Episodes(5, 10)).success_rate;
  EXPECT_DOUBLE_EQ(half.value, 0.5);
  EXPECT_NEAR(half.low, 0.2366, 1e-4);
  EXPECT_NEAR(half.high, 0.7634, 1e-4);
  const Interval none = Summarize(Episodes(0, 10)).success_rate;
  EXPECT_NEAR(none.low, 0, 1e-12);
  EXPECT_NEAR(none.high, 0.27753, 1e-5);
  const Interval all = Summarize(Episodes(10, 10)).success_rate;
  EXPECT_NEAR(all.low, 0.72247, 1e-5);
  EXPECT_NEAR(all.high, 1, 1e-12);
}

TEST(Summarize, GivesMeansAndTheReturnsInterval) {
  const EvaluationSummary summary = Summarize(Episodes(5, 10));
  EXPECT_EQ(summary.episodes, 10u);
  EXPECT_DOUBLE_EQ(summary.episode_return.value, 0.5);
  // 1.96 deviations of the mean, sqrt(10 * 0.25 / 9 / 10).
  EXPECT_NEAR(summary.episode_return.high - 0.5, 1.959964 * 0.1666667, 1e-6);
  EXPECT_NEAR(0.5 - summary.episode_return.low, 1.959964 * 0.1666667, 1e-6);
  EXPECT_NEAR(summary.length, 14.5, 1e-12);
  ASSERT_EQ(summary.figures.size(), 1u);
  EXPECT_NEAR(summary.figures[0], 9, 1e-12);
}

// A run's folder with an MLP for debug/Alignment.
class LoadTrainedPolicyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    run_ = (fs::path(::testing::TempDir()) / absl::StrCat("evaluate_test_", FreshRandom64())).string();
    fs::create_directories(run_);
    std::ofstream(run_ + "/experiment.textproto")
        << "environment { name: \"debug/Alignment\" } reward { intrinsic_coefficient: 0 }";
  }
  void TearDown() override { fs::remove_all(run_); }

  void Checkpoint(uint64_t steps, Policy& policy, uint32_t format_version = 1) {
    const std::string folder = absl::StrFormat("%s/checkpoints/checkpoint-%012d", run_, steps);
    fs::create_directories(folder);
    NamedTensors tensors;
    for (auto& parameter : policy.named_parameters()) {
      tensors.emplace_back("policy/" + parameter.key(), parameter.value().detach());
      tensors.emplace_back("adam/first/" + parameter.key(), torch::zeros_like(parameter.value()).detach());
    }
    ASSERT_TRUE(WriteTensors(folder + "/weights.safetensors", tensors, {}).ok());
    v1::LearnerState state;
    state.set_format_version(format_version);
    state.set_steps(steps);
    std::ofstream(folder + "/state.pb", std::ios::binary) << state.SerializeAsString();
  }

  std::string Error(const std::string& checkpoint = "") {
    return std::string(LoadTrainedPolicy(run_, checkpoint).status().message());
  }

  std::string run_;
};

TEST_F(LoadTrainedPolicyTest, TakesTheNewestOrTheOneNamed) {
  const auto older = PolicyFor("debug/Alignment", 1), newer = PolicyFor("debug/Alignment", 2);
  Checkpoint(9'000, *older);
  Checkpoint(1'000'000, *newer);
  const auto newest = LoadTrainedPolicy(run_, "");
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->steps, 1'000'000u);
  EXPECT_TRUE(torch::equal(newest->policy->parameters()[0], newer->parameters()[0]));
  const auto named = LoadTrainedPolicy(run_, "checkpoint-000000009000");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(named->steps, 9'000u);
  EXPECT_TRUE(torch::equal(named->policy->parameters()[0], older->parameters()[0]));
}

TEST_F(LoadTrainedPolicyTest, SaysWhatIsMissing) {
  EXPECT_THAT(Error(), HasSubstr("no checkpoint"));
  Checkpoint(9'000, *PolicyFor("debug/Alignment"));
  EXPECT_THAT(Error("checkpoint-7"), HasSubstr("there are: checkpoint-000000009000"));
  EXPECT_THAT(std::string(LoadTrainedPolicy(run_ + "/nothing", "").status().message()), HasSubstr("is not a run"));
}

TEST_F(LoadTrainedPolicyTest, RefusesAnotherNetworkAndAnotherFormat) {
  Checkpoint(9'000, *PolicyFor("minigrid/Empty-Random-6x6"));
  EXPECT_EQ(LoadTrainedPolicy(run_, "").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Error(), HasSubstr("another network"));
  Checkpoint(10'000, *PolicyFor("debug/Alignment"), 2);
  EXPECT_EQ(LoadTrainedPolicy(run_, "").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Error(), HasSubstr("format version 2"));
}

// sibyl-eval's exit status, and what it prints: standard output, or where it refuses, standard error.
std::pair<int, std::string> SibylEval(const std::string& arguments, bool refuses) {
  const std::string command =
      absl::StrCat(SIBYL_BIN_DIR, "/sibyl-eval ", arguments, refuses ? " 2>&1 >/dev/null" : " 2>/dev/null");
  FILE* const pipe = popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

TEST_F(LoadTrainedPolicyTest, SibylEvalPrintsALineOfJson) {
  Checkpoint(9'000, *PolicyFor("debug/Alignment"));
  const auto [status, text] = SibylEval(run_ + " --episodes 10 --seed 40 --json", false);
  ASSERT_EQ(status, 0) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  const nlohmann::json line = nlohmann::json::parse(text);
  EXPECT_EQ(line["episodes"], 10);
  EXPECT_EQ(line["steps"], 9'000);
  EXPECT_EQ(line["success_rate"], 0.5);  // the odd seeds
  EXPECT_NEAR(line["success_rate_95"][0].get<double>(), 0.2366, 1e-4);
  EXPECT_EQ(line["mean_length"], line["figures"]["steps"]);
  EXPECT_EQ(SibylEval(run_ + " --episodes 10 --seed 40 --json", false).second, text);
}

TEST_F(LoadTrainedPolicyTest, SibylEvalPrintsTextForPeople) {
  Checkpoint(9'000, *PolicyFor("debug/Alignment"));
  const auto [status, text] = SibylEval(run_ + " --episodes=10 --seed=40 --greedy", false);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(text, HasSubstr("success rate  0.5  [0.2366, 0.7634]"));
  EXPECT_THAT(text, HasSubstr("greedy"));
  EXPECT_THAT(text, HasSubstr("mean steps"));
}

TEST_F(LoadTrainedPolicyTest, SibylEvalRefusesWithStatus2) {
  for (const auto& [arguments, words] :
       std::vector<std::pair<std::string, std::string>>{{"", "no run is named"},
                                                        {run_ + "/nothing", "is not a run"},
                                                        {run_, "no checkpoint"},
                                                        {run_ + " --episodes 0", "--episodes is 0"},
                                                        {run_ + " --environments 5000", "must be from 1 to 4096"}}) {
    const auto [status, text] = SibylEval(arguments, true);
    EXPECT_EQ(status, 2) << arguments;
    EXPECT_THAT(text, HasSubstr(words));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  // What is no flag, or lacks its value, ends it as it ends every program.
  EXPECT_EQ(SibylEval(run_ + " --episodes", true).first, 2);
  EXPECT_THAT(SibylEval(run_ + " --speed 3", true).second, HasSubstr("speed"));
  Checkpoint(9'000, *PolicyFor("minigrid/Empty-Random-6x6"));
  const auto [status, text] = SibylEval(run_, true);
  EXPECT_EQ(status, 2);
  EXPECT_THAT(text, HasSubstr("another network"));
}

}  // namespace
}  // namespace sibyl
