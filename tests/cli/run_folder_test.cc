#include "cli/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/runtime/files.h"

namespace sibyl::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class RunFolderTest : public testing::Test {
 protected:
  RunFolderTest() : folder_(absl::StrCat(testing::TempDir(), "sibyl-run-folder-", absl::Hex(FreshRandom64()))) {
    fs::create_directories(folder_ + "/bin");
    for (const char* program : {"sibyl-learner", "sibyl-actor", "sibyl-reward-model", "sibyl-annotator"}) {
      Write("bin/" + std::string(program), "");
      fs::permissions(folder_ + "/bin/" + program, fs::perms::owner_all);
    }
    Write("my.rules", "helpful: open\ndefault: unhelpful\n");
    Write("config.textproto", R"(environment { name: "debug/Alignment" }
      total_steps: 1000
      reward_model { goal: "open doors" }
      annotator { judge: JUDGE_KIND_RULES rules_file: "my.rules" })");
    request_.config = folder_ + "/config.textproto";
    request_.run_dir = folder_ + "/run";
    request_.binaries = folder_ + "/bin";
  }
  ~RunFolderTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/", name), text).ok());
  }
  std::string Read(const std::string& name) { return *ReadFile(absl::StrCat(folder_, "/", name)); }
  std::string Refusal() {
    const auto run = RunFolder::Prepare(request_);
    return run.ok() ? "it is prepared" : run.status().ToString();
  }
  // Makes the run and lets it go.
  void Run() {
    const auto run = RunFolder::Prepare(request_);
    ASSERT_TRUE(run.ok()) << run.status();
  }
  bool NothingIsThere() { return !fs::exists(folder_ + "/run"); }

  const std::string folder_;
  RunRequest request_;
};

TEST_F(RunFolderTest, HoldsEverythingThatTheProcessesRead) {
  const auto run = RunFolder::Prepare(request_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->path(), folder_ + "/run");
  EXPECT_TRUE(fs::is_directory(run->File("logs")));
  EXPECT_EQ(Read("run/judge/my.rules"), Read("my.rules"));
  EXPECT_EQ(run->experiment().annotator().rules_file(), folder_ + "/run/judge/my.rules");
  // What the file says is relative: the folder can be moved, and the run goes on where it is.
  EXPECT_THAT(Read("run/experiment.textproto"), HasSubstr("rules_file: \"judge/my.rules\""));
}

TEST_F(RunFolderTest, AFolderThatWasMovedGoesOn) {
  Run();
  fs::rename(folder_ + "/run", folder_ + "/moved");
  fs::remove(folder_ + "/my.rules");
  fs::remove(folder_ + "/config.textproto");
  request_.config.clear();
  request_.run_dir = folder_ + "/moved";
  request_.resume = true;
  const auto run = RunFolder::Prepare(request_);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->experiment().annotator().rules_file(), folder_ + "/moved/judge/my.rules");
}

TEST_F(RunFolderTest, OneRunHasOneMaster) {
  const auto run = RunFolder::Prepare(request_);
  ASSERT_TRUE(run.ok());
  request_.resume = true;
  EXPECT_THAT(Refusal(), HasSubstr("is being trained in by another `sibyl train`"));
}

TEST_F(RunFolderTest, TheLockGoesWithItsHolder) {
  Run();
  request_.resume = true;
  EXPECT_TRUE(RunFolder::Prepare(request_).ok());
}

TEST_F(RunFolderTest, ARunIsNeverStartedOverAnother) {
  Run();
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("is not empty"), HasSubstr("--resume")));
  // A lock that a refused start left behind is no run.
  request_.run_dir = folder_ + "/other";
  fs::create_directories(request_.run_dir);
  Write("other/lock", "");
  EXPECT_TRUE(RunFolder::Prepare(request_).ok());
}

TEST_F(RunFolderTest, NothingIsWrittenWhereTheRunCannotBegin) {
  request_.overrides = {"learner.no_such_field=3"};
  EXPECT_THAT(Refusal(), HasSubstr("no_such_field"));
  EXPECT_TRUE(NothingIsThere());
  request_.overrides = {"environment.name=debug/NoSuch"};
  EXPECT_THAT(Refusal(), HasSubstr("environment.name"));
  EXPECT_TRUE(NothingIsThere());
  request_.overrides = {"annotator.rules_file=gone.rules"};
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("annotator.rules_file"), HasSubstr("gone.rules")));
  EXPECT_TRUE(NothingIsThere());
  request_.overrides.clear();
  fs::remove(folder_ + "/bin/sibyl-annotator");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("/bin/sibyl-annotator"), HasSubstr("SIBYL_BIN")));
  EXPECT_TRUE(NothingIsThere());
  request_.overrides = {"reward.intrinsic_coefficient=0"};
  EXPECT_EQ(Refusal(), "it is prepared") << "no judge is asked";
}

TEST_F(RunFolderTest, AResumeNeedsARun) {
  request_.resume = true;
  request_.config.clear();
  EXPECT_THAT(Refusal(), HasSubstr("holds no run"));
  EXPECT_TRUE(NothingIsThere());
  request_.run_dir.clear();
  EXPECT_THAT(Refusal(), HasSubstr("--resume needs the run's folder"));
}

TEST_F(RunFolderTest, ADamagedConfigurationIsNamedAndLeftAlone) {
  Run();
  request_.resume = true;
  request_.config.clear();
  for (const char* damaged : {"", "environment { name: \"debug/Ali"}) {
    Write("run/experiment.textproto", damaged);
    EXPECT_THAT(Refusal(), HasSubstr("experiment.textproto")) << damaged;
    EXPECT_EQ(Read("run/experiment.textproto"), damaged);
  }
}

TEST_F(RunFolderTest, AResumeUnderAnotherConfigurationIsRefusedAndChangesNothing) {
  Run();
  const std::string before = Read("run/experiment.textproto");
  request_.resume = true;
  request_.overrides = {"environment.max_episode_steps=7"};
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("environment.max_episode_steps"), HasSubstr("another --run_dir")));
  EXPECT_EQ(Read("run/experiment.textproto"), before);
  request_.overrides = {"total_steps=2000"};
  ASSERT_EQ(Refusal(), "it is prepared") << "a run may go on for longer";
  EXPECT_THAT(Read("run/experiment.textproto"), HasSubstr("total_steps: 2000"));
}

TEST_F(RunFolderTest, OtherRulesUnderTheSameNameAreAnotherJudge) {
  Run();
  request_.resume = true;
  Write("my.rules", "default: helpful\n");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("annotator.rules_file"), HasSubstr("differs from the run's")));
  EXPECT_NE(Read("run/judge/my.rules"), Read("my.rules"));
  // The same rules elsewhere are the same judge.
  fs::create_directories(folder_ + "/elsewhere");
  Write("elsewhere/copy.rules", Read("run/judge/my.rules"));
  request_.overrides = {absl::StrCat("annotator.rules_file=", folder_, "/elsewhere/copy.rules")};
  ASSERT_EQ(Refusal(), "it is prepared");
  EXPECT_THAT(Read("run/experiment.textproto"), HasSubstr("judge/my.rules"));
}

TEST_F(RunFolderTest, AFolderThatCannotBeMadeIsNamed) {
  Write("file", "");
  request_.run_dir = folder_ + "/file/run";
  EXPECT_THAT(Refusal(), HasSubstr("cannot make the folder"));
}

}  // namespace
}  // namespace sibyl::cli
