// `sibyl train` with all its real processes: what the judge labels is paid, and anything may be killed.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"
#include "tests/annotator/fake_llm.h"
#include "tests/process.h"
#include "tests/served_metrics.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

class RingTest : public testing::Test {
 protected:
  RingTest() {
    std::string folder = testing::TempDir() + "/ring.XXXXXX";
    folder_ = mkdtemp(folder.data());
    run_ = folder_ + "/run";
    std::ofstream(folder_ + "/config.textproto") << R"(
      environment { name: "minigrid/DoorKey-5x5" }
      actor { processes: 2 environments: 8 }
      learner { unroll_length: 16 batch_size: 256 checkpoint_seconds: 1 }
      reward { intrinsic_coefficient: 0.2 }
      reward_model { goal: "Reach the green square behind the door." checkpoint_seconds: 1 }
      annotator { rules_file: ")" SIBYL_SOURCE_DIR R"(/configs/rules/minigrid.rules" })";
  }
  ~RingTest() override {
    sibyl_.reset();
    std::error_code no_logs;
    for (const auto& log : fs::directory_iterator(run_ + "/logs", no_logs)) {
      ExpectNoReport(ReadFile(log.path()).value_or(""));
    }
    fs::remove_all(folder_);
  }

  void Start(uint64_t steps, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl",
                                          "train",
                                          folder_ + "/config.textproto",
                                          "--run_dir",
                                          run_,
                                          "--set",
                                          absl::StrCat("total_steps=", steps)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    sibyl_ = std::make_unique<Process>(arguments);
  }

  // Process id of a child of `sibyl train`; 0 when there is none. `log` tells one actor from another.
  pid_t Child(const std::string& program, const std::string& log = "") const {
    std::ifstream children(absl::StrCat("/proc/", sibyl_->pid(), "/task/", sibyl_->pid(), "/children"));
    for (pid_t pid; children >> pid;) {
      const auto command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
      const std::string name = command.ok() ? std::string(command->c_str()) : "";
      if (!absl::EndsWith(name, "/" + program)) continue;
      std::error_code error;
      const std::string output = fs::read_symlink(absl::StrCat("/proc/", pid, "/fd/2"), error).string();
      if (absl::EndsWith(output, log)) return pid;
    }
    return 0;
  }

  // A figure of the learner as it serves it; -1 when it cannot be had.
  double Metric(const std::string& process, const std::string& name) const {
    const auto targets = ReadFile(run_ + "/metrics_targets.json");
    if (!targets.ok()) return -1;
    for (const auto& target : nlohmann::json::parse(*targets, nullptr, false)) {
      if (target["labels"].value("process", "") != process) continue;
      const std::vector<std::string> address = absl::StrSplit(target["targets"][0].get<std::string>(), ':');
      return ServedMetric(std::atoi(address[1].c_str()), name);
    }
    return -1;
  }

  double Steps() const { return Metric("learner", "sibyl_learner_steps_total"); }
  void ExpectProgress(double steps = 1000) {
    const double before = std::max(0.0, Steps());
    ASSERT_TRUE(Eventually([&] { return Steps() >= before + steps; })) << sibyl_->log();
  }

  nlohmann::json Summary() const {
    const auto text = ReadFile(run_ + "/summary.json");
    return text.ok() ? nlohmann::json::parse(*text) : nlohmann::json();
  }

  // Kills a child and waits for its replacement.
  void Kill(const std::string& program, const std::string& log = "") {
    pid_t pid = 0;
    ASSERT_TRUE(Eventually([&] { return (pid = Child(program, log)) != 0; })) << program << "\n" << sibyl_->log();
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    ASSERT_TRUE(Eventually([&] {
      const pid_t now = Child(program, log);
      return now != 0 && now != pid;
    })) << program
        << "\n"
        << sibyl_->log();
  }

  std::string folder_, run_;
  std::unique_ptr<Process> sibyl_;
};

TEST_F(RingTest, TheJudgesLabelsBecomeReward) {
  Start(30'000);
  EXPECT_EQ(sibyl_->Wait(), 0) << sibyl_->log();
  const auto summary = Summary();
  EXPECT_GE(summary["steps"], 30'000);
  EXPECT_GT(summary["episodes"], 0);
  EXPECT_EQ(summary["abandoned_episodes"], 0);
  EXPECT_GT(summary["captions_seen"], 2);
  EXPECT_EQ(summary["captions_labelled"], summary["captions_asked"]);
  EXPECT_GT(summary["captions_labelled"], 2);
  EXPECT_GT(summary["intrinsic_share_of_reward"], 0.0);
  EXPECT_LT(summary["unlabelled_share_of_steps"], 0.5);
  // A batch has as many unrolls as there are environments, so actors are one update ahead at most.
  EXPECT_LE(summary["policy_lag"], 1);
  EXPECT_EQ(summary["outcome"], "finished");
  for (const char* process : {"learner", "actor-0", "actor-1", "reward_model", "annotator"}) {
    EXPECT_GT(summary["peak_memory_bytes"].value(process, 0), 0) << process;
  }
  EXPECT_TRUE(fs::exists(run_ + "/labels.sqlite"));
}

TEST_F(RingTest, GoesOnWhenAnyPartIsKilled) {
  Start(100'000'000);
  ExpectProgress();
  ASSERT_TRUE(Eventually([&] { return Metric("actor-0", "sibyl_actor_steps_total") > 0; })) << sibyl_->log();
  Kill("sibyl-actor", "actor-0.log");
  ExpectProgress();  // the other actor goes on
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_actors_connected") == 2; })) << sibyl_->log();
  EXPECT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_abandoned_episodes_total") > 0; }));
  double labelled = 0;
  ASSERT_TRUE(Eventually([&] {
    labelled = Metric("reward_model", "sibyl_reward_model_captions_labelled");
    return labelled > 0;
  })) << sibyl_->log();
  Kill("sibyl-reward-model");
  ExpectProgress();
  ASSERT_TRUE(Eventually([&] {
    return Metric("reward_model", "sibyl_reward_model_captions_labelled") >= labelled &&
           Metric("learner", "sibyl_learner_reward_model_connected") == 1;
  })) << sibyl_->log();
  Kill("sibyl-annotator");
  ExpectProgress();
  ASSERT_TRUE(Eventually([&] { return Metric("reward_model", "sibyl_reward_model_annotator_connected") == 1; }))
      << sibyl_->log();
  EXPECT_GE(Metric("reward_model", "sibyl_reward_model_captions_labelled"), labelled);

  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_abandoned_episodes_total") > 0; }));
  const double before = Steps();
  ASSERT_TRUE(Eventually([&] { return fs::exists(run_ + "/checkpoints/newest") && Steps() > before; }));
  Kill("sibyl-learner");
  ASSERT_TRUE(Eventually([&] { return Steps() > before; })) << sibyl_->log();
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_actors_connected") == 2; })) << sibyl_->log();

  sibyl_->Signal(SIGINT);
  EXPECT_EQ(sibyl_->Wait(), 130) << sibyl_->log();
  const auto summary = Summary();
  EXPECT_GE(summary["restarts"].value("learner", 0), 1);
  EXPECT_GE(summary["restarts"].value("actor-0", 0), 1);
  EXPECT_GE(summary["restarts"].value("reward_model", 0), 1);
  EXPECT_GE(summary["restarts"].value("annotator", 0), 1);
  EXPECT_EQ(summary["captions_labelled"], summary["captions_asked"]);
}

TEST_F(RingTest, GoesOnWithLocalActorsWhenOneOrTheLearnerIsKilled) {
  Start(100'000'000, {"--set", "actor.inference=INFERENCE_LOCAL"});
  ExpectProgress();
  ASSERT_TRUE(Eventually([&] { return Metric("reward_model", "sibyl_reward_model_captions_labelled") > 2; }));
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_intrinsic_share") > 0; })) << sibyl_->log();
  ASSERT_TRUE(Eventually([&] { return Metric("actor-0", "sibyl_actor_policy_version") > 0; })) << sibyl_->log();
  Kill("sibyl-actor-local", "actor-0.log");
  ExpectProgress();  // the other actor goes on
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_actors_connected") == 2; })) << sibyl_->log();
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_abandoned_episodes_total") > 0; }));
  const double before = Steps();
  ASSERT_TRUE(Eventually([&] { return fs::exists(run_ + "/checkpoints/newest") && Steps() > before; }));
  Kill("sibyl-learner");
  ASSERT_TRUE(Eventually([&] { return Steps() > before; })) << sibyl_->log();
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_actors_connected") == 2; })) << sibyl_->log();
  sibyl_->Signal(SIGINT);
  EXPECT_EQ(sibyl_->Wait(), 130) << sibyl_->log();
  const auto summary = Summary();
  EXPECT_GE(summary["restarts"].value("actor-0", 0), 1);
  EXPECT_EQ(summary["restarts"].value("actor-1", -1), 0);
  EXPECT_EQ(summary["captions_labelled"], summary["captions_asked"]);
}

TEST_F(RingTest, GoesOnFromItsCheckpointAndRefusesAnotherGoal) {
  Start(100'000'000);
  ExpectProgress(4000);
  sibyl_->Signal(SIGINT);
  EXPECT_EQ(sibyl_->Wait(), 130) << sibyl_->log();
  const uint64_t stopped = Summary()["steps"];
  EXPECT_GT(stopped, 0u);

  Start(100'000'000, {"--resume", "--set", "reward_model.goal=Wander about."});
  EXPECT_EQ(sibyl_->Wait(), 1);
  EXPECT_TRUE(sibyl_->Says("reward_model.goal")) << sibyl_->log();

  Start(stopped + 4000, {"--resume"});
  EXPECT_EQ(sibyl_->Wait(), 0) << sibyl_->log();
  EXPECT_GE(Summary()["steps"], stopped + 4000);
  EXPECT_LT(Summary()["steps"], stopped + 8000);
}

TEST_F(RingTest, TwoLearnersTrainTogetherAndGoOnWhenOneIsKilledOrHasNoActors) {
  Start(100'000'000, {"--set", "learner.ranks=2", "--set", "learner.rank_limit_seconds=20"});
  ExpectProgress();
  // Rank 1 has its experience from its own actor, and its scores from rank 0.
  ASSERT_TRUE(Eventually([&] {
    return Metric("learner-1", "sibyl_learner_received_steps_total") > 1000 &&
           Metric("learner-1", "sibyl_learner_unlabelled_share") < 1 &&
           Metric("learner-1", "sibyl_learner_intrinsic_share") > 0;
  })) << sibyl_->log();
  EXPECT_NEAR(Metric("learner-1", "sibyl_learner_policy_version"), Metric("learner", "sibyl_learner_policy_version"),
              2000);

  ASSERT_TRUE(Eventually([&] { return fs::exists(run_ + "/checkpoints/newest"); }));
  double before = Steps();
  Kill("sibyl-learner", "learner-1.log");
  ASSERT_TRUE(Eventually([&] {
    return Metric("learner", "sibyl_learner_policy_version") > 0 && Steps() > before &&
           Metric("learner-1", "sibyl_learner_actors_connected") == 1;
  })) << sibyl_->log();

  // Without its actor rank 1 has nothing to train on, and the other does not wait for it.
  const pid_t actor = Child("sibyl-actor", "actor-1.log");
  ASSERT_NE(actor, 0);
  ASSERT_EQ(kill(actor, SIGSTOP), 0);
  ExpectProgress(20'000);
  ASSERT_EQ(kill(actor, SIGCONT), 0);

  sibyl_->Signal(SIGINT);
  EXPECT_EQ(sibyl_->Wait(), 130) << sibyl_->log();
  const auto summary = Summary();
  EXPECT_GE(summary["restarts"].value("learner-1", 0), 1);
  EXPECT_GT(summary["captions_labelled"], 2);

  Start(summary["steps"].get<uint64_t>() + 4000, {"--resume"});
  EXPECT_EQ(sibyl_->Wait(), 0) << sibyl_->log();
}

TEST_F(RingTest, TrainsWhileTheJudgeIsAwayAndTakesItsLabelsWhenItComes) {
  // A port where nothing listens.
  int port = 0;
  {
    port = annotator::FakeLlm([](const auto&) { return annotator::FakeLlm::Reply(); }).port();
  }

  Start(100'000'000,
        {"--set", "annotator.judge=JUDGE_KIND_OPENAI", "--set",
         absl::StrCat("annotator.openai.url=http://127.0.0.1:", port, "/v1"), "--set", "annotator.openai.model=fake",
         "--set", "annotator.openai.prompt_file=" SIBYL_SOURCE_DIR "/configs/prompts/minigrid_classify.txt", "--set",
         "environment.send_context=true"});
  ExpectProgress(5000);
  EXPECT_EQ(Metric("reward_model", "sibyl_reward_model_captions_labelled"), 0);
  EXPECT_LE(Metric("annotator", "sibyl_annotator_waiting_queries"), 64);
  std::atomic<bool> view_shown = false;
  annotator::FakeLlm llm(
      [&](const annotator::FakeLlm::Call& call) {
        if (absl::StrContains(call.request.dump(), "In view: Goal: ")) view_shown = true;
        return call.probe ? annotator::FakeLlm::ObeysSchemas() : annotator::FakeLlm::Says("Label: helpful");
      },
      port);
  ASSERT_TRUE(Eventually([&] { return Metric("reward_model", "sibyl_reward_model_captions_labelled") > 2; }))
      << sibyl_->log();
  ASSERT_TRUE(Eventually([&] { return Metric("learner", "sibyl_learner_intrinsic_share") > 0; })) << sibyl_->log();
  EXPECT_TRUE(view_shown) << "environment.send_context has its way from the actor to the prompt";
  sibyl_->Signal(SIGINT);
  EXPECT_EQ(sibyl_->Wait(), 130) << sibyl_->log();
}

}  // namespace
}  // namespace sibyl
