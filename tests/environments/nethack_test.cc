#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/random.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An environment with room for its observation.
struct Player {
  explicit Player(const EnvironmentOptions& options = {}) {
    auto made = MakeEnvironment("nethack/Score", options);
    EXPECT_TRUE(made.ok()) << made.status();
    environment = std::move(made).value();
    for (const v1::TensorSpec& array : environment->spec().observation()) arrays.emplace_back(Bytes(array), '\0');
    for (std::string& array : arrays) pointers.push_back(array.data());
  }

  void Reset(uint64_t seed) {
    const absl::Status status = environment->Reset(seed, pointers);
    EXPECT_TRUE(status.ok()) << status;
    random = Random(seed);
    Note("");
  }

  // One random action; goes on with seed + 1,000,000 after an episode's end.
  StepResult Step() {
    const auto result = environment->Step(static_cast<int>(random.Below(23)), pointers);
    EXPECT_TRUE(result.ok()) << result.status();
    Note(absl::StrCat(result->reward, result->terminated, result->truncated));
    if (result->terminated || result->truncated) over = true;
    return *result;
  }

  // Steps until the episode's end, at most `steps`.
  void Play(int steps) {
    for (int i = 0; i < steps && !over; ++i) Step();
  }

  // Everything seen since construction, in short.
  void Note(const std::string& more) {
    over = false;
    for (const std::string& array : arrays) history = Mix64(history ^ std::hash<std::string>()(array));
    history = Mix64(history ^ std::hash<std::string>()(more + std::string(environment->Caption())));
  }

  std::string Array(const std::string& name) const {
    for (int i = 0; i < environment->spec().observation_size(); ++i) {
      if (environment->spec().observation(i).name() == name) return arrays[i];
    }
    ADD_FAILURE() << name;
    return "";
  }

  std::unique_ptr<Environment> environment;
  std::vector<std::string> arrays;
  std::vector<void*> pointers;
  Random random{0};
  uint64_t history = 0;
  bool over = false;
};

uint64_t Alone(uint64_t seed, int steps) {
  Player player;
  player.Reset(seed);
  player.Play(steps);
  return player.history;
}

std::string HackDirParent() { return absl::StrCat("/dev/shm/sibyl-nethack-", getuid()); }

// Folders of processes under the parent that this process (or the given one) made.
int HackDirsOf(pid_t process) {
  int count = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(HackDirParent(), ignored)) {
    count += entry.path().filename().string().rfind(absl::StrCat(process, "-"), 0) == 0;
  }
  return count;
}

int OpenFiles() {
  return static_cast<int>(std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()));
}

TEST(NetHack, ShowsAPolicyWhatItReadsAndAComparisonEverything) {
  const auto names = [](const EnvironmentOptions& options) {
    std::vector<std::string> all;
    const auto spec = FindEnvironmentSpec("nethack/Score", options);
    EXPECT_TRUE(spec.ok()) << spec.status();
    for (const v1::TensorSpec& array : spec->observation()) all.push_back(array.name());
    EXPECT_EQ(Choices(spec->action()).size(), 23);
    EXPECT_EQ(spec->max_episode_steps(), 5000u);
    return all;
  };
  EXPECT_THAT(names({}), ElementsAre("chars", "colors", "blstats", "message"));
  EXPECT_THAT(names({.all_arrays = true}),
              ElementsAre("glyphs", "chars", "colors", "specials", "blstats", "message", "program_state", "internal",
                          "inv_glyphs", "inv_letters", "inv_oclasses", "inv_strs", "tty_chars", "tty_colors",
                          "tty_cursor", "misc"));
}

TEST(NetHack, GamesInOneProcessPlayAsEachDoesAlone) {
  std::vector<Player> players(6);
  for (size_t i = 0; i < players.size(); ++i) players[i].Reset(40 + i);
  for (int step = 0; step < 600; ++step) {
    for (Player& player : players) player.Play(1);
  }
  for (size_t i = 0; i < players.size(); ++i) EXPECT_EQ(players[i].history, Alone(40 + i, 600)) << "seed " << 40 + i;
}

TEST(NetHack, GamesInSeveralThreadsPlayAsEachDoesAlone) {
  std::vector<uint64_t> histories(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < histories.size(); ++i) threads.emplace_back([&, i] { histories[i] = Alone(50 + i, 600); });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < histories.size(); ++i) EXPECT_EQ(histories[i], Alone(50 + i, 600)) << "seed " << 50 + i;
}

TEST(NetHack, ASeedReplaysAfterOtherGamesWhetherEndedOrAbandoned) {
  Player player({.max_episode_steps = 200, .all_arrays = true});
  player.Reset(7);
  player.Play(200);
  const uint64_t first = player.history;
  player.Reset(8);  // abandoned after 100 steps
  player.Play(100);
  player.Reset(9);  // quit at the step limit
  player.Play(200);
  player.history = 0;
  player.Reset(7);
  player.Play(200);
  EXPECT_EQ(player.history, first);
}

TEST(NetHack, AtTheStepLimitTheLastObservationIsTheOneBeforeTheGameIsQuit) {
  Player limited({.max_episode_steps = 120}), free;
  limited.Reset(3);
  free.Reset(3);
  for (int step = 1; step <= 120; ++step) {
    const StepResult cut = limited.Step(), on = free.Step();
    ASSERT_FALSE(on.terminated) << "seed 3 dies early; choose another";
    EXPECT_EQ(cut.truncated, step == 120);
    EXPECT_EQ(cut.package_terminated, step == 120);
    EXPECT_FALSE(cut.terminated || cut.package_truncated);
    EXPECT_EQ(cut.reward, on.reward);
    EXPECT_EQ(limited.arrays, free.arrays) << step;
    EXPECT_EQ(limited.environment->Caption(), free.environment->Caption());
  }
  EXPECT_EQ(limited.environment->Figures().back(), -1);
  EXPECT_FALSE(limited.environment->Success());
  EXPECT_EQ(limited.environment->Step(0, limited.pointers).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(NetHack, TheCaptionIsTheMessageLine) {
  Player player;
  player.Reset(1);
  EXPECT_THAT(std::string(player.environment->Caption()), HasSubstr("welcome to NetHack"));
  for (int step = 0; step < 200; ++step) {
    player.Play(1);
    EXPECT_EQ(player.environment->Caption(), player.Array("message").c_str());
  }
}

TEST(NetHack, TheContextIsTheStatusLineInWords) {
  Player player;
  player.Reset(1);
  EXPECT_THAT(player.environment->Context(),
              AllOf(HasSubstr("dungeon level 1, "), HasSubstr(" gold, "),
                    HasSubstr(" hit points, experience level 1, "), HasSubstr("not hungry")));
}

TEST(NetHack, FiguresSayHowTheEpisodeWent) {
  Player player;
  // The first death of a random player.
  StepResult last;
  for (uint64_t seed = 100; !last.terminated; ++seed) {
    player.Reset(seed);
    while (!player.over) last = player.Step();
  }
  const auto figures = player.environment->Figures();
  ASSERT_EQ(static_cast<int>(figures.size()), player.environment->spec().figures_size());
  std::map<std::string, double> named;
  for (size_t i = 0; i < figures.size(); ++i) named[player.environment->spec().figures(i)] = figures[i];
  EXPECT_GE(named["deepest_level"], 1);
  EXPECT_GE(named["experience_level"], 1);
  EXPECT_GT(named["scout"], 20);
  EXPECT_GT(named["turns"], 1);
  EXPECT_GE(named["score"], 0);
  EXPECT_GE(named["gold"], 0);
  EXPECT_GE(named["kills"], 0);
  EXPECT_EQ(named["end_status"], 1);
  // The status before death, not the zeros after it.
  EXPECT_THAT(player.environment->Context(), HasSubstr("dungeon level"));
  EXPECT_EQ(player.environment->Context().find("dungeon level 0"), std::string::npos);
}

TEST(NetHack, WritesOnlyTheArraysThatAreWanted) {
  Player all, some;
  some.pointers[1] = nullptr;
  all.Reset(5);
  some.Reset(5);
  for (int step = 0; step < 50; ++step) {
    all.Step();
    some.Step();
    EXPECT_EQ(all.arrays[0], some.arrays[0]);
    EXPECT_EQ(all.arrays[3], some.arrays[3]);
  }
  EXPECT_EQ(some.arrays[1], std::string(some.arrays[1].size(), '\0'));
}

TEST(NetHack, RefusesAnActionThatIsNone) {
  Player player;
  player.Reset(1);
  for (const int action : {-1, 23}) {
    const auto result = player.environment->Step(action, player.pointers);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(absl::StrCat(action)));
  }
}

TEST(NetHack, AMissingPackageIsNamedWithItsRemedy) {
  setenv("SIBYL_NLE", "/nowhere/nle", 1);
  const absl::Status status = MakeEnvironment("nethack/Score").status();
  unsetenv("SIBYL_NLE");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("libnethack.so"), HasSubstr("/nowhere/nle"),
                                                   HasSubstr("make setup"), HasSubstr("SIBYL_NLE")));
}

TEST(NetHack, AnUnknownVersionIsRefused) {
  const fs::path folder = fs::temp_directory_path() / absl::StrCat("nethack_test_", getpid());
  fs::create_directories(folder);
  std::ofstream(folder / "version.py") << "__version__ = \"1.4.2\"\n";
  std::ofstream(folder / "libnethack.so") << "not a library";
  setenv("SIBYL_NLE", folder.c_str(), 1);
  const absl::Status status = MakeEnvironment("nethack/Score").status();
  unsetenv("SIBYL_NLE");
  fs::remove_all(folder);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("1.4.2"), HasSubstr("1.3.0"), HasSubstr(folder.string())));
}

TEST(NetHack, LeavesTheProcessItsSignalHandlers) {
  struct sigaction own = {}, now = {};
  own.sa_handler = [](int) {};
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) sigaction(signal, &own, nullptr);
  const auto unchanged = [&] {
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) {
      sigaction(signal, nullptr, &now);
      if (now.sa_handler != own.sa_handler) return false;
    }
    return true;
  };
  {
    Player player({.max_episode_steps = 30});
    EXPECT_TRUE(unchanged());
    player.Reset(1);
    EXPECT_TRUE(unchanged());
    player.Play(30);  // and quits
    EXPECT_TRUE(unchanged());
    player.Reset(2);
    EXPECT_TRUE(unchanged());
  }
  EXPECT_TRUE(unchanged());
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) ::signal(signal, SIG_DFL);
}

TEST(NetHack, LeavesNoFoldersAndNoOpenFiles) {
  const int files = OpenFiles();
  {
    Player one({.max_episode_steps = 20}), two;
    EXPECT_EQ(HackDirsOf(getpid()), 1);
    int playing = 0;
    for (uint64_t seed = 0; seed < 30; ++seed) {
      one.Reset(seed);
      two.Reset(seed);
      if (seed == 0) playing = OpenFiles();
      EXPECT_EQ(OpenFiles(), playing);
      one.Play(20);  // quits
      two.Play(10);  // abandons
    }
  }
  EXPECT_EQ(HackDirsOf(getpid()), 0);
  EXPECT_EQ(OpenFiles(), files);
}

TEST(NetHack, RemovesTheFoldersThatAKilledProcessLeft) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    Player player;
    player.Reset(1);
    (void)!write(ready[1], "x", 1);
    while (true) pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  close(ready[1]);
  // While it lives nobody touches its folder.
  { Player player; }
  EXPECT_EQ(HackDirsOf(child), 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(HackDirsOf(child), 1);
  { Player player; }
  EXPECT_EQ(HackDirsOf(child), 0);
}

}  // namespace
}  // namespace sibyl
