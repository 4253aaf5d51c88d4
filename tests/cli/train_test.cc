// `sibyl train` with fake programs in place of its children: small shell scripts in a folder of the test.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"
#include "tests/process.h"

namespace sibyl::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// Polls until it is so; false when that takes too long.
bool Eventually(const std::function<bool()>& so) {
  const auto until = std::chrono::steady_clock::now() + kPatience * std::chrono::minutes(1);
  while (!so()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Whether a process is there and does something; one that ended and was not waited for does nothing.
bool Runs(pid_t pid) {
  const auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!stat.ok()) return false;
  const size_t name_end = stat->rfind(')');
  return name_end != std::string::npos && stat->substr(name_end, 3) != ") Z";
}

// A run of the real program.
class Sibyl {
 public:
  Sibyl(std::vector<std::string> arguments, const std::string& binaries, const std::string& output) : output_(output) {
    const std::string program = SIBYL_BIN_DIR "/sibyl";
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      dup2(out, 1);
      dup2(out, 2);
      setenv("SIBYL_BIN", binaries.c_str(), 1);
      execv(argv[0], argv.data());
      _exit(126);
    }
  }
  ~Sibyl() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  void Signal(int number) { kill(pid_, number); }
  std::string Output() const { return ReadFile(output_).value_or(""); }
  bool Says(const std::string& text) const {
    return Eventually([&] { return Output().find(text) != std::string::npos; });
  }
  // Its exit status; 1000 + a signal's number; -1 when it does not end.
  int Wait() {
    int status = 0;
    if (!Eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) return -1;
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  const std::string output_;
  pid_t pid_ = 0;
};

class TrainTest : public testing::Test {
 protected:
  TrainTest() {
    fs::create_directories(binaries_);
    // Each fake notes its process id and its flags in <folder>/<name>.pids and .flags, one line a start, and when it is
    // told to stop in "order".
    for (const char* name : {"annotator", "reward-model", "actor", "learner"}) Fake(name, "wait");
    Write("some.rules", "helpful: ^step 1\ndefault: unhelpful\n");
    Write("trial.textproto", R"(
      environment { name: "debug/Alignment" }
      total_steps: 1000
      reward_model { goal: "go on" }
      annotator { rules_file: "some.rules" }
    )");
  }
  ~TrainTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) { ASSERT_TRUE(WriteFileDurably(Path(name), text).ok()); }

  // A fake program. Bodies: "wait" until it is told to stop; other shell text. Functions there are: `wait_for FILE`
  // (made in the test's folder) and `finish STEPS` (as a learner whose run has got there).
  void Fake(const std::string& name, std::string body) {
    if (body == "wait") body = "wait_for never";
    const std::string path = binaries_ + "/sibyl-" + name;
    ASSERT_TRUE(WriteFileDurably(path, absl::StrCat(R"(#!/bin/sh
folder=')",
                                                    folder_, R"('
name=)",
                                                    name, R"(
for flag in "$@"; do case "$flag" in --run_dir=*) run=${flag#--run_dir=} ;; esac; done
stopped() { echo $name >> $folder/order; exit 143; }
trap stopped TERM
wait_for() { while [ ! -e $folder/$1 ]; do sleep 0.02; done; }
finish() { echo "{\"steps\": $1}" > $run/learner_summary.json; exit 0; }
echo "$@" >> $folder/$name.flags
echo $$ >> $folder/$name.pids
)",
                                                    body, "\n"))
                    .ok());
    fs::permissions(path, fs::perms::owner_all);
  }

  std::vector<std::string> Lines(const std::string& name) const {
    const std::string text = ReadFile(Path(name)).value_or("");
    std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
    if (!text.empty() && text.back() != '\n') lines.pop_back();
    return lines;
  }
  // Process id of the n-th start (from 0); waits for it. 0 when it does not come.
  pid_t Pid(const std::string& name, size_t start = 0) const {
    if (!Eventually([&] { return Lines(name + ".pids").size() > start; })) return 0;
    int pid = 0;
    return absl::SimpleAtoi(Lines(name + ".pids")[start], &pid) ? pid : 0;
  }
  std::string Flags(const std::string& name, size_t start = 0) const {
    Pid(name, start);
    return Lines(name + ".flags").at(start);
  }
  bool AllRun() const {
    return Runs(Pid("annotator")) && Runs(Pid("reward-model")) && Runs(Pid("learner")) && Runs(Pid("actor"));
  }

  Sibyl Train(std::vector<std::string> more = {}, const std::string& run = "run") {
    std::vector<std::string> arguments = {"train", Path("trial.textproto"), "--run_dir", Path(run)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Start(arguments);
  }
  Sibyl Start(const std::vector<std::string>& arguments) {
    return Sibyl(arguments, binaries_, Path(absl::StrCat("output.", ++outputs_)));
  }
  nlohmann::json Summary(const std::string& run = "run") const {
    return nlohmann::json::parse(ReadFile(Path(run + "/summary.json")).value_or("{}"));
  }

  const std::string folder_ = testing::TempDir() + "train_test." + std::to_string(getpid());
  const std::string binaries_ = folder_ + "/bin";
  int outputs_ = 0;
};

TEST_F(TrainTest, FinishesWhenTheLearnerDoesAndStopsTheOthersInOrder) {
  Fake("learner", "wait_for go; finish 1000");
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  Write("go", "");
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_THAT(Lines("order"), ElementsAre("actor", "reward-model", "annotator"));
  EXPECT_EQ(Summary()["outcome"], "finished");
  EXPECT_EQ(Summary()["steps"], 1000);
  EXPECT_GT(Summary()["peak_memory_bytes"]["learner"], 0);
  EXPECT_EQ(Summary()["restarts"]["learner"], 0);
  EXPECT_THAT(sibyl.Output(), HasSubstr("finished"));
  EXPECT_FALSE(Runs(Pid("actor")));
}

TEST_F(TrainTest, TellsEachProcessWhereTheOthersAre) {
  Sibyl sibyl = Train({"--set", "actor.processes=2"});
  const std::string config = absl::StrCat("--config=", Path("run/experiment.textproto"), " --run_dir=", Path("run"));
  EXPECT_THAT(Flags("annotator"),
              testing::MatchesRegex(config + " --listen=127.0.0.1:[0-9]+ --metrics_listen=127.0.0.1:[0-9]+"));
  const auto listen = [&](const std::string& name) {
    for (absl::string_view flag : absl::StrSplit(Flags(name), ' ')) {
      if (absl::ConsumePrefix(&flag, "--listen=")) return std::string(flag);
    }
    return std::string();
  };
  EXPECT_THAT(Flags("reward-model"),
              HasSubstr(absl::StrCat(config, " --annotator=", listen("annotator"), " --listen=")));
  EXPECT_THAT(Flags("learner"),
              HasSubstr(absl::StrCat(config, " --reward_model=", listen("reward-model"), " --listen=")));
  EXPECT_THAT(Flags("learner"), Not(HasSubstr("--resume")));
  EXPECT_THAT(Flags("actor", 1), HasSubstr(absl::StrCat("--learner=", listen("learner"))));

  const auto targets = nlohmann::json::parse(*ReadFile(Path("run/metrics_targets.json")));
  ASSERT_EQ(targets.size(), 5u);
  EXPECT_EQ(targets[4]["labels"]["process"], "actor-1");
  EXPECT_THAT(Flags("annotator"),
              HasSubstr(absl::StrCat("--metrics_listen=", targets[0]["targets"][0].get<std::string>())));
}

TEST_F(TrainTest, StartsTheServerOfAnEmbeddedModelAndTellsTheAnnotator) {
  Write("p.txt", "[user]\n{caption}\n");
  Fake("llm-server", "case \"$*\" in --describe*) exit 0 ;; esac; wait_for never");
  Fake("learner", "wait_for go; finish 1000");
  Sibyl sibyl = Train({"--set", "annotator.judge=JUDGE_KIND_EMBEDDED", "--set",
                       "annotator.openai.prompt_file=" + Path("p.txt"), "--set", "annotator.embedded.nice=7"});
  ASSERT_TRUE(AllRun());
  ASSERT_TRUE(Eventually([&] {
    return !Lines("llm-server.flags").empty() && absl::StrContains(Lines("llm-server.flags").back(), "--port=");
  }));
  const std::string served = Lines("llm-server.flags").back();
  EXPECT_THAT(served, AllOf(HasSubstr("--model= "), HasSubstr("--threads=1"), HasSubstr("--nice=7")));
  const size_t at = served.find("--port=") + 7;
  const std::string port = served.substr(at, served.find(' ', at) - at);
  EXPECT_THAT(Flags("annotator"), HasSubstr("--llm=127.0.0.1:" + port + " "));
  EXPECT_THAT(*ReadFile(Path("run/experiment.textproto")), HasSubstr("model: \"SmolLM2-135M-Instruct.Q4_1\""));
  Write("go", "");
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_THAT(Lines("order"), ElementsAre("actor", "reward-model", "annotator", "llm-server"));
  EXPECT_EQ(Summary()["judge"], "embedded:SmolLM2-135M-Instruct.Q4_1");
}

TEST_F(TrainTest, AnEmbeddedModelThatCannotBeServedStopsTheRunBeforeItStarts) {
  Write("p.txt", "[user]\n{caption}\n");
  Fake("llm-server", "echo 'the package is not installed; run make setup' >&2; exit 2");
  Sibyl sibyl =
      Train({"--set", "annotator.judge=JUDGE_KIND_EMBEDDED", "--set", "annotator.openai.prompt_file=" + Path("p.txt")});
  EXPECT_EQ(sibyl.Wait(), 1);
  EXPECT_THAT(sibyl.Output(), HasSubstr("the package is not installed; run make setup"));
  EXPECT_FALSE(fs::exists(Path("run")));
  EXPECT_TRUE(Lines("learner.pids").empty());
}

TEST_F(TrainTest, StartsNeitherRewardModelNorAnnotatorWhereCaptionsAreNotRewarded) {
  Fake("learner", "finish 1000");
  Sibyl sibyl = Train({"--set", "reward.intrinsic_coefficient=0"});
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_THAT(Flags("learner"), Not(HasSubstr("--reward_model")));
  EXPECT_TRUE(Lines("annotator.pids").empty());
  EXPECT_TRUE(Lines("reward-model.pids").empty());
}

TEST_F(TrainTest, StartsLocalActorsWhereTheConfigurationSaysSo) {
  EXPECT_EQ(Train({"--set", "actor.inference=INFERENCE_LOCAL"}).Wait(), 1);  // the program is not there
  Fake("actor-local", "wait");
  Fake("learner", "wait_for go; finish 1000");
  Sibyl sibyl = Train({"--set", "actor.inference=INFERENCE_LOCAL"});
  EXPECT_THAT(Flags("actor-local"), HasSubstr("--learner=127.0.0.1:"));
  Write("go", "");
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_TRUE(Lines("actor.pids").empty());
}

TEST_F(TrainTest, ReplacesAProcessThatDiedAtTheSameAddress) {
  Fake("learner", "wait_for go; finish 1000");
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  kill(Pid("annotator"), SIGKILL);
  EXPECT_TRUE(sibyl.Says("annotator was killed by signal 9"));
  EXPECT_NE(Pid("annotator", 1), 0);
  EXPECT_EQ(Flags("annotator", 1), Flags("annotator", 0));
  kill(Pid("learner"), SIGKILL);
  EXPECT_EQ(Flags("learner", 1), Flags("learner", 0) + " --resume");
  Write("go", "");
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_THAT(sibyl.Output(), HasSubstr("learner is back"));
  EXPECT_EQ(Summary()["restarts"]["annotator"], 1);
  EXPECT_EQ(Summary()["restarts"]["learner"], 1);
  EXPECT_EQ(Summary()["restarts"]["actor-0"], 0);
}

TEST_F(TrainTest, ReplacesALearnerThatSomebodyElseStopped) {
  Fake("learner", "[ -e $folder/second ] && finish 1000; touch $folder/second; exit 143");
  Sibyl sibyl = Train();
  EXPECT_EQ(sibyl.Wait(), 0) << sibyl.Output();
  EXPECT_EQ(Summary()["steps"], 1000);
  EXPECT_EQ(Summary()["restarts"]["learner"], 1);
}

TEST_F(TrainTest, GivesUpOnAProcessThatKeepsDying) {
  Fake("reward-model", "echo \"now died as $$\" >&2; kill -KILL $$");
  Sibyl sibyl = Train();
  EXPECT_EQ(sibyl.Wait(), 1);
  EXPECT_EQ(Lines("reward-model.pids").size(), 5u);
  EXPECT_THAT(sibyl.Output(),
              AllOf(HasSubstr("for the 5th time within 1m"), HasSubstr("died as"), HasSubstr("logs/reward_model.log")));
  EXPECT_THAT(Summary()["outcome"].get<std::string>(), HasSubstr("failed: reward_model was killed"));
  // The learner was asked to write a checkpoint all the same.
  EXPECT_THAT(Lines("order"), ElementsAre("learner", "actor", "annotator"));
}

TEST_F(TrainTest, GivesUpSoonerWhereTheSameErrorComesAtOnce) {
  Fake("annotator", "echo \"$(date +%s%N) no such judge\" >&2; exit 1");
  Sibyl sibyl = Train();
  EXPECT_EQ(sibyl.Wait(), 1);
  EXPECT_EQ(Lines("annotator.pids").size(), 3u);
  EXPECT_THAT(sibyl.Output(), HasSubstr("no such judge"));
}

TEST_F(TrainTest, GivesUpAtOnceOnAProcessThatWasStartedWrongly) {
  Fake("actor", "echo bad flags; exit 2");
  Sibyl sibyl = Train();
  EXPECT_EQ(sibyl.Wait(), 1);
  EXPECT_EQ(Lines("actor.pids").size(), 1u);
  EXPECT_THAT(sibyl.Output(), AllOf(HasSubstr("status 2"), HasSubstr("bad flags")));
}

TEST_F(TrainTest, StopsCleanlyOnOneInterrupt) {
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGINT);
  EXPECT_EQ(sibyl.Wait(), 130) << sibyl.Output();
  EXPECT_THAT(Lines("order"), ElementsAre("learner", "actor", "reward-model", "annotator"));
  EXPECT_EQ(Summary()["outcome"], "stopped");
  EXPECT_THAT(sibyl.Output(), HasSubstr("--resume --run_dir " + Path("run")));
}

TEST_F(TrainTest, SaysThatTheLearnerSavedNothing) {
  Fake("learner", "trap 'exit 1' TERM; wait_for never");
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGINT);
  EXPECT_EQ(sibyl.Wait(), 1) << sibyl.Output();
  EXPECT_THAT(sibyl.Output(), HasSubstr("The learner wrote no last checkpoint"));
}

TEST_F(TrainTest, ATermSignalHasAStatusOfItsOwn) {
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGTERM);
  EXPECT_EQ(sibyl.Wait(), 143) << sibyl.Output();
  EXPECT_THAT(sibyl.Output(), HasSubstr("The learner wrote a checkpoint"));
}

// As under nohup.
TEST_F(TrainTest, AHangupThatItWasStartedToIgnoreStopsNothing) {
  signal(SIGHUP, SIG_IGN);
  Sibyl sibyl = Train();
  signal(SIGHUP, SIG_DFL);
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGHUP);
  kill(Pid("actor"), SIGKILL);
  EXPECT_NE(Pid("actor", 1), 0) << "it goes on: " << sibyl.Output();
  sibyl.Signal(SIGINT);
  EXPECT_EQ(sibyl.Wait(), 130) << sibyl.Output();
}

TEST_F(TrainTest, AHangupStopsCleanly) {
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGHUP);
  EXPECT_EQ(sibyl.Wait(), 143) << sibyl.Output();
}

TEST_F(TrainTest, StopsAtOnceOnASecondInterrupt) {
  Fake("learner", "trap '' TERM; wait_for never");
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGTERM);
  ASSERT_TRUE(sibyl.Says("stopping"));
  EXPECT_TRUE(Runs(Pid("learner")));
  sibyl.Signal(SIGINT);
  EXPECT_EQ(sibyl.Wait(), 1);
  for (const char* name : {"annotator", "reward-model", "learner", "actor"}) EXPECT_FALSE(Runs(Pid(name))) << name;
  EXPECT_EQ(Summary()["outcome"], "stopped");
}

TEST_F(TrainTest, NoChildOutlivesASupervisorThatWasKilled) {
  Sibyl sibyl = Train();
  ASSERT_TRUE(AllRun());
  sibyl.Signal(SIGKILL);
  EXPECT_EQ(sibyl.Wait(), 1000 + SIGKILL);
  for (const char* name : {"annotator", "reward-model", "learner", "actor"}) {
    EXPECT_TRUE(Eventually([&] { return !Runs(Pid(name)); })) << name;
  }
}

TEST_F(TrainTest, ChildrenHaveAProcessGroupOfTheirOwnAndDefaultSignals) {
  Sibyl sibyl = Train();
  const pid_t actor = Pid("actor");
  EXPECT_EQ(getpgid(actor), actor);
  EXPECT_NE(getpgid(sibyl.pid()), actor);
  // A shell blocks signals for a moment whenever it starts a program.
  EXPECT_TRUE(Eventually([&] {
    const std::string status = ReadFile(absl::StrCat("/proc/", actor, "/status")).value_or("");
    return absl::StrContains(status, "SigBlk:\t0000000000000000");
  }));
}

TEST_F(TrainTest, WritesTheEffectiveConfigurationAndACopyOfTheRules) {
  Fake("learner", "finish 1000");
  ASSERT_EQ(Train({"--set", "learner.gamma=0.97"}).Wait(), 0);
  EXPECT_THAT(*ReadFile(Path("run/experiment.textproto")),
              AllOf(HasSubstr("gamma: 0.97"), HasSubstr("unroll_length: 32"), HasSubstr("\"judge/some.rules\"")));
  EXPECT_EQ(*ReadFile(Path("run/judge/some.rules")), *ReadFile(Path("some.rules")));
}

TEST_F(TrainTest, NamesTheFolderByTheTimeWhereNoneIsGiven) {
  Fake("learner", "finish 1000");
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  Sibyl run = Start({"train", "trial.textproto"});
  fs::current_path(before);
  EXPECT_EQ(run.Wait(), 0) << run.Output();
  const fs::directory_iterator runs(Path("runs"));
  EXPECT_THAT(runs->path().filename().string(), testing::MatchesRegex("trial-[0-9]{8}-[0-9]{6}"));
  EXPECT_TRUE(fs::exists(runs->path() / "summary.json"));
}

TEST_F(TrainTest, RefusesAFolderThatHoldsARunAndResumesItWhenAsked) {
  Fake("learner", "finish 1000");
  ASSERT_EQ(Train().Wait(), 0);
  Sibyl again = Train();
  EXPECT_EQ(again.Wait(), 1);
  EXPECT_THAT(again.Output(), AllOf(HasSubstr(Path("run")), HasSubstr("--resume"), HasSubstr("--run_dir")));

  Sibyl resumed = Train({"--resume", "--set", "total_steps=900"});
  EXPECT_EQ(resumed.Wait(), 0) << resumed.Output();
  EXPECT_THAT(Flags("learner", 1), HasSubstr("--resume"));
  // Without the configuration's file, and though the rules' own file is gone.
  fs::remove(Path("some.rules"));
  Sibyl bare = Start({"train", "--resume", "--run_dir", Path("run")});
  EXPECT_EQ(bare.Wait(), 0) << bare.Output();
}

TEST_F(TrainTest, RefusesToResumeARunThatDiffers) {
  Fake("learner", "finish 1000");
  ASSERT_EQ(Train().Wait(), 0);
  Sibyl goal = Train({"--resume", "--set", "reward_model.goal=stand still"});
  EXPECT_EQ(goal.Wait(), 1);
  EXPECT_THAT(goal.Output(), AllOf(HasSubstr("reward_model.goal"), HasSubstr("stand still"), HasSubstr("--run_dir")));

  Write("some.rules", "default: helpful\n");
  Sibyl rules = Train({"--resume"});
  EXPECT_EQ(rules.Wait(), 1);
  EXPECT_THAT(rules.Output(), AllOf(HasSubstr("annotator.rules_file"), HasSubstr(Path("some.rules"))));
  EXPECT_EQ(Lines("learner.pids").size(), 1u);
}

TEST_F(TrainTest, RefusesToResumeWhatIsNotThere) {
  Sibyl none = Train({"--resume"});
  EXPECT_EQ(none.Wait(), 1);
  EXPECT_THAT(none.Output(), AllOf(HasSubstr(Path("run")), HasSubstr("holds no run")));
  Sibyl nameless = Start({"train", "--resume"});
  EXPECT_EQ(nameless.Wait(), 2);
  EXPECT_THAT(nameless.Output(), HasSubstr("--run_dir"));
}

TEST_F(TrainTest, RefusesAFolderThatAnotherOneTrainsIn) {
  Sibyl first = Train();
  ASSERT_TRUE(AllRun());
  Sibyl second = Train({"--resume"});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.Output(), HasSubstr("another `sibyl train`"));
  first.Signal(SIGTERM);
  EXPECT_EQ(first.Wait(), 143);
}

TEST_F(TrainTest, ChecksEverythingBeforeItStartsAnything) {
  const auto refused = [&](const std::vector<std::string>& arguments, int status) {
    Sibyl sibyl = Train(arguments);
    EXPECT_EQ(sibyl.Wait(), status) << absl::StrJoin(arguments, " ");
    EXPECT_FALSE(fs::exists(Path("run/experiment.textproto")));
    return sibyl.Output();
  };
  EXPECT_THAT(refused({"--set", "environment.name=minigrid/Nowhere"}, 2),
              AllOf(HasSubstr("environment.name"), HasSubstr("`minigrid/Nowhere`"), HasSubstr("`sibyl envs`")));
  EXPECT_THAT(refused({"--set", "annotator.rules_file=/absent.rules"}, 1),
              AllOf(HasSubstr("annotator.rules_file"), HasSubstr("/absent.rules")));
  EXPECT_THAT(refused({"--set", "learner.gama=1"}, 2), HasSubstr("learner.gama"));
  EXPECT_THAT(refused({"--sett", "learner.gamma=1"}, 2), AllOf(HasSubstr("`--sett`"), HasSubstr("--set field=value")));
  EXPECT_THAT(refused({"more"}, 2), HasSubstr("more"));
  fs::remove(binaries_ + "/sibyl-actor");
  EXPECT_THAT(refused({}, 1), AllOf(HasSubstr("sibyl-actor"), HasSubstr("SIBYL_BIN")));
}

TEST_F(TrainTest, OtherCommandsSayWhatTheyDoNotUnderstand) {
  const auto run = [&](const std::vector<std::string>& arguments, int status) {
    Sibyl sibyl = Start(arguments);
    EXPECT_EQ(sibyl.Wait(), status) << absl::StrJoin(arguments, " ");
    return sibyl.Output();
  };
  EXPECT_THAT(run({"tarin"}, 2),
              AllOf(HasSubstr("`tarin`"), HasSubstr("train, eval, rollout, bench, captions, labels, annotate")));
  EXPECT_THAT(run({}, 2), HasSubstr("train"));
  EXPECT_THAT(run({"envs"}, 0), HasSubstr("debug/Alignment\n"));
  EXPECT_THAT(run({"envs", "more"}, 2), HasSubstr("`more`"));
  EXPECT_THAT(run({"config", Path("trial.textproto"), "--set", "seed=9"}, 0),
              AllOf(HasSubstr("seed: 9"), HasSubstr("gamma: 0.99")));
  EXPECT_THAT(run({"config"}, 2), HasSubstr("configuration"));
  EXPECT_THAT(run({"config", Path("absent")}, 1), HasSubstr(Path("absent")));
  EXPECT_THAT(run({"help"}, 0), HasSubstr("sibyl train CONFIG"));
  EXPECT_THAT(run({"train", "--help"}, 0), HasSubstr("sibyl train CONFIG"));
  EXPECT_THAT(run({"--version"}, 0), HasSubstr("sibyl "));
  EXPECT_THAT(run({"eval", "RUN"}, 1), HasSubstr("sibyl-eval"));
}

TEST_F(TrainTest, EvalBecomesTheProgramBesideIt) {
  Fake("eval", "echo \"args: $*\"; exit 7");
  Sibyl sibyl = Start({"eval", "RUN", "--episodes=3"});
  EXPECT_EQ(sibyl.Wait(), 7);
  EXPECT_THAT(sibyl.Output(), HasSubstr("args: RUN --episodes=3"));
}

}  // namespace
}  // namespace sibyl::cli
