#include "cli/rollout/rollout.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/safetensors.h"
#include "environments/debug/alignment.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace sibyl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Rollout : public ::testing::Test {
 protected:
  Rollout() : folder_(std::filesystem::temp_directory_path() / absl::StrCat("rollout_test_", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~Rollout() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }

  int Run(const std::vector<std::string>& arguments) {
    std::ostringstream out, errors;
    const int status = RunRollout(arguments, out, errors);
    errors_ = errors.str();
    out_ = out.str();
    lines_.clear();
    if (status == 0) {
      std::istringstream in(out_);
      for (std::string line; std::getline(in, line);) lines_.push_back(nlohmann::ordered_json::parse(line));
    }
    return status;
  }

  const std::filesystem::path folder_;
  std::string out_, errors_;
  std::vector<nlohmann::ordered_json> lines_;
};

std::map<std::string, NamedArray> Named(const Safetensors& file) {
  std::map<std::string, NamedArray> named;
  for (const NamedArray& array : file.arrays) named[array.name] = array;
  return named;
}

template <typename T>
std::vector<T> Values(const NamedArray& array) {
  std::vector<T> values(array.bytes.size() / sizeof(T));
  std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  return values;
}

TEST_F(Rollout, PrintsALineAStep) {
  ASSERT_EQ(Run({"debug/Alignment", "--seed", "2", "--steps", "3", "--actions", "random"}), 0) << errors_;
  ASSERT_EQ(lines_.size(), 3u);
  for (int step = 0; step < 3; ++step) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : lines_[step].items()) keys.push_back(key);
    EXPECT_THAT(keys, ElementsAre("step", "action", "reward", "terminated", "truncated", "caption"));
    EXPECT_EQ(lines_[step]["step"], step);
    EXPECT_EQ(lines_[step]["reward"].get<float>(), AlignmentReward(2, step + 1));
    EXPECT_EQ(lines_[step]["caption"], AlignmentCaption(2, step + 1));
  }
}

TEST_F(Rollout, EpisodeKHasSeedNPlusKAndItsFirstObservationFollowsTheEndOfTheOneBefore) {
  ASSERT_EQ(Run({"debug/Alignment", "--seed=5", "--steps=40", "--save=" + Path("r.safetensors")}), 0) << errors_;
  const auto file = ReadSafetensors(Path("r.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto arrays = Named(*file);
  EXPECT_THAT(arrays.at("seed").shape, ElementsAre(41));
  EXPECT_THAT(arrays.at("action").shape, ElementsAre(40));
  EXPECT_EQ(arrays.at("terminated").type, ArrayType::kBool);
  const auto seeds = Values<int64_t>(arrays.at("seed"));
  const auto steps = Values<int32_t>(arrays.at("step"));
  const auto actions = Values<int64_t>(arrays.at("action"));
  const auto rewards = Values<float>(arrays.at("reward"));
  const auto terminated = Values<uint8_t>(arrays.at("terminated")), truncated = Values<uint8_t>(arrays.at("truncated"));
  uint64_t seed = 5;
  int in_episode = 0;
  for (int t = 0; t < 40; ++t) {
    ASSERT_EQ(seeds[t], static_cast<int64_t>(seed)) << t;
    ASSERT_EQ(steps[t], in_episode) << t;
    ++in_episode;
    EXPECT_EQ(rewards[t], AlignmentReward(seed, in_episode));
    // The caption of the observation that ends an episode is printed, too.
    EXPECT_EQ(lines_[t]["caption"], AlignmentCaption(seed, in_episode));
    EXPECT_EQ(lines_[t]["action"], actions[t]);
    EXPECT_EQ(lines_[t]["terminated"], terminated[t] != 0);
    EXPECT_EQ(lines_[t]["truncated"], truncated[t] != 0);
    const bool over = in_episode == AlignmentLength(seed);
    ASSERT_EQ(terminated[t] || truncated[t], over) << t;
    if (over) {
      ++seed;
      in_episode = 0;
    }
  }
  EXPECT_GT(seed, 6u) << "the rollout should pass an episode's end";
}

TEST_F(Rollout, PlaysTheActionsOfAFile) {
  std::ofstream(Path("actions")) << "3\n0\n2\r\n1\n\n";
  ASSERT_EQ(Run({"debug/Alignment", "--actions", Path("actions")}), 0) << errors_;
  ASSERT_EQ(lines_.size(), 4u);
  EXPECT_EQ(lines_[0]["action"], 3);
  EXPECT_EQ(lines_[2]["action"], 2);
  ASSERT_EQ(Run({"debug/Alignment", "--actions", Path("actions"), "--steps", "2"}), 0) << errors_;
  EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(Rollout, TheSameSeedPlaysTheSame) {
  ASSERT_EQ(Run({"nethack/Score", "--seed", "3", "--steps", "300", "--max_episode_steps", "100"}), 0) << errors_;
  const std::string first = out_;
  ASSERT_EQ(Run({"nethack/Score", "--seed", "3", "--steps", "300", "--max_episode_steps", "100"}), 0) << errors_;
  EXPECT_EQ(out_, first);
  // NLE calls its step limit termination; the line says what the package says.
  EXPECT_EQ(lines_[99]["terminated"], true);
  EXPECT_EQ(lines_[99]["truncated"], false);
}

TEST_F(Rollout, ASavedNetHackRolloutIsWhatPythonGives) {
  const std::string reference = Path("python.safetensors"), ours = Path("ours.safetensors");
  const std::string command = absl::StrCat("echo ", reference, " Score random 11 400 150 | ", SIBYL_PYTHON,
                                           " -W ignore ", SIBYL_SOURCE_DIR, "/tests/environments/nethack_reference.py");
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto theirs = ReadSafetensors(reference);
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  std::ofstream actions(Path("actions"));
  for (const int64_t action : Values<int64_t>(Named(*theirs).at("action"))) actions << action << "\n";
  actions.close();
  ASSERT_EQ(Run({"nethack/Score", "--seed", "11", "--max_episode_steps", "150", "--actions", Path("actions"), "--save",
                 ours}),
            0)
      << errors_;
  const auto read = ReadSafetensors(ours);
  ASSERT_TRUE(read.ok()) << read.status();
  const auto saved = Named(*read);
  EXPECT_EQ(saved.size(), 20u);
  for (const auto& [name, array] : Named(*theirs)) {
    if (name.rfind("final/", 0) == 0) continue;
    ASSERT_TRUE(saved.count(name)) << name;
    EXPECT_EQ(saved.at(name).shape, array.shape) << name;
    EXPECT_EQ(saved.at(name).bytes, array.bytes) << name;
  }
}

TEST_F(Rollout, NamesWhatIsWrongAndTheRemedyAndExitsWith2) {
  std::ofstream(Path("actions")) << "0\n1\n7\n";
  std::ofstream(Path("words")) << "north\n";
  const struct {
    std::vector<std::string> arguments;
    std::vector<std::string> says;
  } wrong[] = {
      {{}, {"which environment"}},
      {{"debug/Alignement", "--steps", "1"}, {"debug/Alignement", "debug/Alignment"}},
      {{"debug/Alignment"}, {"--steps is missing"}},
      {{"debug/Alignment", "--steps"}, {"--steps", "lacks its value"}},
      {{"debug/Alignment", "--steps", "many"}, {"--steps", "`many`"}},
      {{"debug/Alignment", "--steps", "-1"}, {"--steps", "`-1`"}},
      {{"debug/Alignment", "--steps", "1", "--seed", "4294967296"}, {"--seed", "`4294967296`", "4294967295"}},
      {{"debug/Alignment", "--step", "1"}, {"--step is unknown", "--steps"}},
      {{"debug/Alignment", "more", "--steps", "1"}, {"`more`"}},
      {{"debug/Alignment", "--actions", Path("actions")}, {Path("actions"), "line 3", "`7`", "0 to 3"}},
      {{"debug/Alignment", "--actions", Path("words")}, {Path("words"), "line 1", "`north`"}},
      {{"debug/Alignment", "--actions", Path("nothing")}, {Path("nothing"), "No such file"}},
      {{"debug/Alignment", "--actions", Path("actions"), "--steps", "9"}, {"line 3"}},
      {{"debug/Alignment", "--steps", "1", "--save", Path("no/folder.safetensors")}, {"--save", "no/folder"}},
  };
  for (const auto& [arguments, says] : wrong) {
    EXPECT_EQ(Run(arguments), 2) << errors_;
    EXPECT_EQ(out_, "");
    for (const std::string& text : says) EXPECT_THAT(errors_, HasSubstr(text));
  }
}

TEST_F(Rollout, ExplainsItself) { EXPECT_EQ(RunRollout({"--help"}, std::cout, std::cerr), 0); }

}  // namespace
}  // namespace sibyl
