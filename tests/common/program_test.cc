#include "common/runtime/program.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "common/runtime/stop.h"

namespace sibyl {
namespace {

constexpr ProgramInfo kInfo = {"tested", "A program of the tests.", /*takes_overrides=*/true, /*most_arguments=*/1};

// Runs RunMain in a process of its own, which ends with RunMain's status.
void RunAs(std::vector<std::string> arguments, const std::function<absl::Status(Program&)>& body) {
  arguments.insert(arguments.begin(), "tested");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::exit(RunMain(static_cast<int>(arguments.size()), argv.data(), kInfo, body));
}

absl::Status WaitForTheStop(Program& program) {
  WaitForStop(program.stop(), program.clock, absl::InfiniteDuration());
  return absl::OkStatus();
}

// Until the thread that takes signals has taken the one that was sent.
void WaitUntilTaken() {
  sigset_t pending;
  do {
    usleep(1000);
    sigpending(&pending);
  } while (sigismember(&pending, SIGTERM) == 1);
}

class RunMainTest : public testing::Test {
 protected:
  RunMainTest() { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(RunMainTest, EndsWithZeroWhenTheWorkIsDone) {
  EXPECT_EXIT(RunAs({}, [](Program&) { return absl::OkStatus(); }), testing::ExitedWithCode(kExitFinished), "");
}

TEST_F(RunMainTest, ASignalIsAStatusOfItsOwn) {
  for (const int number : {SIGTERM, SIGINT}) {
    EXPECT_EXIT(RunAs({},
                      [number](Program& program) {
                        kill(getpid(), number);
                        return WaitForTheStop(program);
                      }),
                testing::ExitedWithCode(kExitStopped), "stopping");
  }
}

// The state that could not be saved decides.
TEST_F(RunMainTest, AStopWhoseStateIsLostIsAFailure) {
  EXPECT_EXIT(RunAs({},
                    [](Program& program) {
                      kill(getpid(), SIGTERM);
                      (void)WaitForTheStop(program);
                      return absl::ResourceExhaustedError("cannot write the checkpoint");
                    }),
              testing::ExitedWithCode(kExitFailed), "cannot write the checkpoint");
}

TEST_F(RunMainTest, OneSignalAfterTheWorkIsDoneCutsNothingShort) {
  for (const bool failed : {false, true}) {
    EXPECT_EXIT(RunAs({},
                      [failed](Program& program) {
                        if (failed) program.ending.Fail(absl::InternalError("broken"));
                        program.ending.Finish();
                        kill(getpid(), SIGTERM);
                        WaitUntilTaken();
                        usleep(1000);
                        std::fputs("the last write is complete\n", stderr);
                        return absl::OkStatus();
                      }),
                testing::ExitedWithCode(failed ? kExitFailed : kExitFinished), "the last write is complete");
  }
}

TEST_F(RunMainTest, TwoSignalsEndAtOnce) {
  EXPECT_EXIT(RunAs({},
                    [](Program& program) {
                      kill(getpid(), SIGTERM);
                      (void)WaitForTheStop(program);
                      kill(getpid(), SIGTERM);
                      for (;;) pause();
                      return absl::OkStatus();
                    }),
              testing::ExitedWithCode(kExitFailed), "without saving");
}

TEST_F(RunMainTest, AnExceptionIsAFailureWithItsReason) {
  EXPECT_EXIT(RunAs({}, [](Program&) -> absl::Status { throw std::runtime_error("no such tensor"); }),
              testing::ExitedWithCode(kExitFailed), "no such tensor");
}

TEST_F(RunMainTest, WrongFlagsAndConfigurationEndWithTwo) {
  const auto ok = [](Program&) { return absl::OkStatus(); };
  EXPECT_EXIT(RunAs({"--no_such_flag"}, ok), testing::ExitedWithCode(kExitUsage), "no_such_flag");
  EXPECT_EXIT(RunAs({"one", "two"}, ok), testing::ExitedWithCode(kExitUsage), "unexpected argument `two`");
  EXPECT_EXIT(RunAs({}, [](Program&) { return UsageError(absl::NotFoundError("no such file")); }),
              testing::ExitedWithCode(kExitUsage), "no such file");
}

TEST_F(RunMainTest, GivesOverridesAndArguments) {
  EXPECT_EXIT(RunAs({"--set", "a.b=1", "word", "--set=c=2"},
                    [](Program& program) {
                      const bool right = program.overrides == std::vector<std::string>({"a.b=1", "c=2"}) &&
                                         program.arguments == std::vector<std::string>({"word"});
                      return right ? absl::OkStatus() : absl::InternalError("not those");
                    }),
              testing::ExitedWithCode(kExitFinished), "");
}

}  // namespace
}  // namespace sibyl
