// Every MiniGrid task against Farama's package, step for step.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "environments/minigrid/family.h"
#include "gtest/gtest.h"

namespace sibyl::minigrid {
namespace {

// What minigrid_reference.py writes, read while it plays.
class Reference {
 public:
  explicit Reference(const std::string& arguments)
      : pipe_(popen(absl::StrCat(SIBYL_PYTHON, " -W ignore ", SIBYL_SOURCE_DIR,
                                 "/tests/environments/minigrid_reference.py ", arguments)
                        .c_str(),
                    "r")) {}
  ~Reference() {
    if (pipe_ != nullptr) pclose(pipe_);
  }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;

  // False: it ended before.
  bool Read(void* to, size_t bytes) { return pipe_ != nullptr && std::fread(to, 1, bytes, pipe_) == bytes; }

  template <typename T>
  bool Read(T& value) {
    return Read(&value, sizeof value);
  }

  std::string ReadAll() {
    std::string all;
    char c;
    while (Read(c)) all.push_back(c);
    return all;
  }

  // The script's exit status.
  int Close() {
    const int status = pclose(pipe_);
    pipe_ = nullptr;
    return status;
  }

 private:
  FILE* pipe_;
};

struct Observation {
  uint8_t image[7 * 7 * 3] = {};
  int64_t direction = -1;
  std::vector<void*> pointers = {image, &direction};
};

bool ReadObservation(Reference& reference, Observation& observation) {
  uint8_t direction;
  if (!reference.Read(observation.image) || !reference.Read(direction)) return false;
  observation.direction = direction;
  return true;
}

::testing::AssertionResult Same(const Observation& ours, const Observation& theirs) {
  if (ours.direction != theirs.direction) {
    return ::testing::AssertionFailure() << "direction " << ours.direction << ", not " << theirs.direction;
  }
  for (size_t i = 0; i < sizeof ours.image; ++i) {
    if (ours.image[i] != theirs.image[i]) {
      return ::testing::AssertionFailure() << "image[" << i / 21 << ", " << i / 3 % 7 << ", " << i % 3 << "] "
                                           << int{ours.image[i]} << ", not " << int{theirs.image[i]};
    }
  }
  return ::testing::AssertionSuccess();
}

// Plays `episodes` episodes of a task on both sides, and says how many succeeded and how many steps changed something.
struct Counts {
  int successes = 0;
  int events = 0;
};
void Compare(const std::string& name, int episodes, uint32_t max_steps, Counts& counts) {
  auto made = Family().make(name, {.max_episode_steps = max_steps});
  ASSERT_TRUE(made.ok()) << made.status();
  Environment& environment = **made;
  Reference reference(absl::StrCat(name, " ", episodes, " ", max_steps));
  Observation ours, theirs;
  for (int episode = 0; episode < episodes; ++episode) {
    uint64_t seed;
    uint32_t limit, mission_bytes;
    ASSERT_TRUE(reference.Read(seed) && reference.Read(limit) && reference.Read(mission_bytes));
    std::string mission(mission_bytes, '\0');
    ASSERT_TRUE(reference.Read(mission.data(), mission.size()) && ReadObservation(reference, theirs));

    SCOPED_TRACE(absl::StrCat(name, ", seed ", seed));
    EXPECT_EQ(environment.spec().max_episode_steps(), limit);
    ASSERT_TRUE(environment.Reset(seed, ours.pointers).ok());
    ASSERT_TRUE(Same(ours, theirs)) << "at reset";
    EXPECT_TRUE(absl::StartsWith(environment.Context(), absl::StrCat("Goal: ", mission, ". You see ")))
        << environment.Context() << "\nmission: " << mission;
    EXPECT_EQ(environment.Caption(), "");
    EXPECT_FALSE(environment.Success());

    for (int step = 1;; ++step) {
      uint8_t action, terminated, truncated;
      double reward;
      ASSERT_TRUE(reference.Read(action) && reference.Read(reward) && reference.Read(terminated) &&
                  reference.Read(truncated) && ReadObservation(reference, theirs));
      const absl::StatusOr<StepResult> result = environment.Step(action, ours.pointers);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_TRUE(Same(ours, theirs)) << "at step " << step;
      ASSERT_EQ(result->reward, static_cast<float>(reward)) << "at step " << step;
      ASSERT_EQ(result->package_terminated, terminated != 0) << "at step " << step;
      ASSERT_EQ(result->package_truncated, truncated != 0) << "at step " << step;
      ASSERT_EQ(result->terminated, terminated != 0);
      ASSERT_EQ(result->truncated, truncated != 0 && terminated == 0);
      ASSERT_EQ(environment.Success(), terminated != 0 && reward > 0);
      counts.successes += environment.Success();
      counts.events += !environment.Caption().empty();
      ASSERT_FALSE(environment.Success() && environment.Caption().empty()) << "at step " << step;
      if (terminated != 0 || truncated != 0) break;
    }
  }
  EXPECT_EQ(reference.Close(), 0);
}

class Parity : public ::testing::TestWithParam<std::string> {};

TEST_P(Parity, EveryStepOfFiftySeedsIsWhatThePackageGives) {
  Counts counts;
  ASSERT_NO_FATAL_FAILURE(Compare(GetParam(), 50, 0, counts));
  // The comparison is worth something only where the episodes go somewhere.
  EXPECT_GE(counts.successes, 5);
  EXPECT_GE(counts.events, 5);
}

INSTANTIATE_TEST_SUITE_P(MiniGrid, Parity, ::testing::ValuesIn(Family().names()), [](const auto& info) {
  return absl::StrReplaceAll(absl::StripPrefix(info.param, "minigrid/"), {{"-", "_"}});
});

TEST(StepLimit, IsThePackagesMaxStepsAndScalesTheReward) {
  Counts counts;
  ASSERT_NO_FATAL_FAILURE(Compare("minigrid/DoorKey-5x5", 50, 37, counts));
  EXPECT_GE(counts.successes, 5);
}

TEST(Names, AreAllTheSizesThatThePackageRegisters) {
  Reference reference("names");
  std::set<std::string> expected;
  for (absl::string_view id : absl::StrSplit(reference.ReadAll(), '\n')) {
    absl::string_view name = id;
    absl::ConsumePrefix(&name, "MiniGrid-");
    absl::ConsumeSuffix(&name, "-v0");
    for (absl::string_view family : {"Empty-", "FourRooms", "DoorKey-", "MultiRoom-", "LavaCrossing", "SimpleCrossing",
                                     "Unlock", "BlockedUnlockPickup", "KeyCorridor", "ObstructedMaze-1Dl"}) {
      if (absl::StartsWith(name, family)) expected.insert(absl::StrCat("minigrid/", name));
    }
  }
  ASSERT_EQ(reference.Close(), 0);
  const std::vector<std::string> names = Family().names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);
}

}  // namespace
}  // namespace sibyl::minigrid
