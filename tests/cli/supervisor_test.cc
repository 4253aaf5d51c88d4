// The supervisor with real processes that only the test has: small Python programs that serve metrics, as Sibyl's do.

#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "cli/ports.h"
#include "common/runtime/files.h"
#include "common/random.h"

namespace sibyl::cli {
namespace {

using ::testing::HasSubstr;

// Serves one step of training; in its first life it stops answering after a few requests, as a process does that waits
// for a lock for ever. In its second life it finishes.
constexpr char kHangsOnce[] = R"(
import http.server, os, signal, sys
port, lives = int(sys.argv[1]), sys.argv[2]
with open(lives, "a") as file:
    file.write("life\n")
with open(lives) as file:
    second_life = len(file.readlines()) > 1
asked = 0
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"sibyl_learner_steps_total 1\n")
        if asked == 2:
            if second_life:
                os._exit(0)
            os.kill(os.getpid(), signal.SIGSTOP)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Metrics).serve_forever()
)";

TEST(Supervisor, KillsAProcessThatHangsAndStartsItAgain) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/sibyl-supervisor-", absl::Hex(FreshRandom64()));
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(WriteFileDurably(folder + "/hangs_once.py", kHangsOnce).ok());
  const int port = FreePorts(1, FreshRandom64())->front();

  ProcessPlan plan;
  plan.name = "learner";
  plan.command = {"/usr/bin/env", "python3", folder + "/hangs_once.py", absl::StrCat(port), folder + "/lives"};
  plan.replacement_command = plan.command;
  plan.log = folder + "/log";
  plan.metrics = absl::StrCat("127.0.0.1:", port);
  plan.stop_limit = absl::Seconds(10);
  plan.silence_limit = absl::Seconds(1);
  plan.works_by_steps = true;
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  Screen screen(out, false);
  Supervisor supervisor({plan}, 1, &Clock::Real(), &screen);
  const RunOutcome outcome = supervisor.Run();
  std::fclose(out);
  EXPECT_EQ(outcome.kind, RunOutcome::kFinished) << outcome.reason;
  EXPECT_EQ(outcome.restarts.at("learner"), 1);
  EXPECT_THAT(text, HasSubstr("learner has not answered for 1s and is killed"));
  EXPECT_THAT(text, HasSubstr("learner was killed by signal 9"));
  free(text);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace sibyl::cli
