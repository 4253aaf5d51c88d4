// NetHack's tasks against Python, step for step: NLE's own against the package, ONI's against what
// nethack_reference.py makes of the package.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/safetensors.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "gtest/gtest.h"

namespace sibyl {
namespace {

// nethack_reference.py, whose start takes as long as a play: one process serves all tests.
class Reference {
 public:
  static Reference& Get() {
    static Reference reference;
    return reference;
  }

  Reference() {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      execl(SIBYL_PYTHON, SIBYL_PYTHON, "-W", "ignore", SIBYL_SOURCE_DIR "/tests/environments/nethack_reference.py",
            nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    std::signal(SIGPIPE, SIG_IGN);  // Play says where the script has ended
    requests_ = fdopen(in[1], "w");
    replies_ = fdopen(out[0], "r");
  }
  ~Reference() {
    std::fclose(requests_);  // its end
    waitpid(pid_, nullptr, 0);
    std::fclose(replies_);
  }

  // Plays as the script's head says. Gives the player's wait status; -1 where the script itself has ended.
  int Play(const std::string& request) {
    int status = -1;
    if (std::fprintf(requests_, "%s\n", request.c_str()) < 0 || std::fflush(requests_) != 0) return -1;
    return std::fscanf(replies_, "%d", &status) == 1 ? status : -1;
  }

 private:
  pid_t pid_;
  std::FILE* requests_;
  std::FILE* replies_;
};

// One observation: every array at once.
struct Observation {
  explicit Observation(const v1::EnvironmentSpec& spec) {
    for (const v1::TensorSpec& array : spec.observation()) arrays.emplace_back(Bytes(array), '\x7f');
    for (std::string& array : arrays) pointers.push_back(array.data());
  }
  std::vector<std::string> arrays;
  std::vector<void*> pointers;
};

struct Play {
  std::string player;
  uint64_t seed;
  int steps;
  uint32_t max_episode_steps = 0;  // 0: the task's own
};

struct TaskPlays {
  std::string task;
  std::vector<Play> plays;
  std::vector<std::string> seen;  // what must have come about in one of them (nethack_reference.py)
};

// Plays with the reference and here, and compares. Adds what came about to `seen`.
void ComparePlay(const std::string& task, const Play& play, std::map<std::string, int>* seen) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() /
      absl::StrCat("nethack_parity_", getpid(), "_", task, "_", play.seed, ".safetensors");
  auto made = MakeEnvironment("nethack/" + task,
                              {.max_episode_steps = play.max_episode_steps, .all_arrays = true, .system_clock = true});
  ASSERT_TRUE(made.ok()) << made.status();
  Environment& environment = **made;
  const std::string request = absl::StrCat(file.string(), " ", task, " ", play.player, " ", play.seed, " ", play.steps,
                                           " ", environment.spec().max_episode_steps());
  ASSERT_EQ(Reference::Get().Play(request), 0) << request;
  const absl::StatusOr<Safetensors> reference = ReadSafetensors(file);
  std::filesystem::remove(file);
  ASSERT_TRUE(reference.ok()) << reference.status();
  std::map<std::string, const NamedArray*> named;
  for (const NamedArray& array : reference->arrays) named[array.name] = &array;
  const auto* actions = reinterpret_cast<const int64_t*>(named.at("action")->bytes.data());
  const auto* rewards = reinterpret_cast<const float*>(named.at("reward")->bytes.data());
  const auto* terminated = named.at("terminated")->bytes.data();
  const auto* truncated = named.at("truncated")->bytes.data();

  for (const auto& [name, times] : reference->metadata) (*seen)[name] += std::stoi(times);
  // Every array there is, and no other, is compared.
  size_t compared = 0;
  for (const auto& [name, array] : named) compared += absl::StartsWith(name, "final/");
  ASSERT_EQ(environment.spec().observation_size(), static_cast<int>(compared));
  EXPECT_EQ(compared, 16u);

  Observation observation(environment.spec());
  const auto equals = [&](const std::string& prefix, size_t row, int step) {
    for (int i = 0; i < environment.spec().observation_size(); ++i) {
      const std::string& bytes = observation.arrays[i];
      const std::string& name = environment.spec().observation(i).name();
      const absl::string_view theirs = named.at(prefix + name)->bytes.substr(row * bytes.size(), bytes.size());
      if (bytes == theirs) continue;
      auto failure = ::testing::AssertionFailure();
      failure << prefix << name << " differs at step " << step << " of seed " << play.seed << " of " << task;
      if (name == "message" || name == "tty_chars") failure << "\nours:\n" << bytes << "\ntheirs:\n" << theirs;
      return failure;
    }
    return ::testing::AssertionSuccess();
  };

  uint64_t episode = 0;
  int quits = 0;
  ASSERT_TRUE(environment.Reset(play.seed, observation.pointers).ok());
  ASSERT_TRUE(equals("", 0, 0));
  for (int step = 0; step < play.steps; ++step) {
    const absl::StatusOr<StepResult> result = environment.Step(actions[step], observation.pointers);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->reward, rewards[step]) << "step " << step;
    ASSERT_EQ(result->package_terminated, terminated[step] != 0) << "step " << step;
    ASSERT_EQ(result->package_truncated, truncated[step] != 0) << "step " << step;
    ASSERT_EQ(result->terminated || result->truncated, result->package_terminated);
    if (result->package_terminated) {
      ASSERT_TRUE(equals("final/", episode, step + 1));
      quits += result->truncated;
      ++episode;
      ASSERT_TRUE(environment.Reset(play.seed + episode, observation.pointers).ok());
    }
    ASSERT_TRUE(equals("", step + 1, step + 1));
  }
  if (play.max_episode_steps != 0) {
    EXPECT_GT(quits, 0);
  }
}

class Parity : public ::testing::TestWithParam<TaskPlays> {};

TEST_P(Parity, EveryArrayRewardAndEndIsWhatPythonGives) {
  std::map<std::string, int> seen;
  for (const Play& play : GetParam().plays) {
    ComparePlay(GetParam().task, play, &seen);
    if (HasFatalFailure()) return;
  }
  for (const std::string& name : GetParam().seen) EXPECT_GT(seen[name], 0) << name;
}

std::vector<Play> Plays(const std::vector<std::string>& players) {
  std::vector<Play> plays;
  for (uint64_t i = 0; i < 20; ++i) plays.push_back({players[i % players.size()], (i + 1) * 1000, 2000});
  plays.push_back({players[0], uint64_t{1} << 40, 500, 100});
  return plays;
}

std::vector<TaskPlays> AllPlays() {
  std::vector<TaskPlays> all;
  all.push_back({"Score", Plays({"random"}), {"rewards"}});
  all.back().plays.push_back({"random", 28000, 2000});  // enters a shop, whose keeper is named after the clock
  all.back().plays.push_back({"random", 77, 2000, 150});
  for (const char* task : {"Gold", "Eat", "Scout", "Challenge"}) all.push_back({task, Plays({"random"}), {"rewards"}});
  all.back().seen.clear();
  for (const char* task : {"Staircase", "StaircasePet"})
    all.push_back({task, Plays({"stairs", "random"}), {"rewards"}});
  for (const char* task : {"Oracle", "OracleSober"}) all.push_back({task, Plays({"stairs", "random"}), {}});
  const std::vector<std::string> things = {"items taken", "items declined", "casts"};
  for (const std::string continual : {"", "Continual"}) {
    for (const std::string level : {"2", "3", "4"}) {
      const std::string task = "StaircaseLvl" + level + continual;
      all.push_back({task, Plays({"stairs", "stairs", "things"}), {}});
      if (level != "4") all.back().seen = {"goals", "rewards", "hidden messages"};
      all.push_back({task + "Extended", Plays({"stairs", "stairs", "things"}), all.back().seen});
      all.back().seen.insert(all.back().seen.end(), things.begin(), things.end());
    }
  }
  all.push_back({"ScoreExtended", Plays({"things", "random"}), things});
  for (const char* task : {"OracleExtended", "OracleSoberExtended"}) all.push_back({task, Plays({"things"}), things});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Tasks, Parity, ::testing::ValuesIn(AllPlays()),
                         [](const auto& info) { return info.param.task; });

}  // namespace
}  // namespace sibyl
