#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "environments/nethack/hackdir.h"
#include "environments/nethack/nle_library.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl::nethack {

// One array that the game can show, under the name that Python's NLE gives it.
struct ArrayInfo {
  const char* name;
  v1::DType dtype;
  std::vector<uint32_t> shape;
  size_t pointer;  // offset of the array's pointer in NleObservation
};

// Every array but `screen_descriptions`, in NLE's order. `tty_colors`, int8 in Python, is uint8 here: it holds 0..31.
absl::Span<const ArrayInfo> AllArrays();

// Indices into `blstats`, the status line.
enum Blstat {
  kX = 0,
  kY = 1,
  kScore = 9,
  kHp = 10,
  kMaxHp = 11,
  kDepth = 12,
  kGold = 13,
  kLevel = 18,
  kTime = 20,
  kHunger = 21,
  kDungeon = 23,
  kDungeonLevel = 24,
  kConditions = 25,
  kBlstats = 27
};

inline constexpr int kHallucinating = 0x200;  // a bit of kConditions

// Indices into `internal`.
enum Internal { kInYesNo = 1, kInGetLine = 2, kAwaitsSpace = 3, kOnStairsDown = 4, kNutrition = 7 };

// Of the array `message`.
inline constexpr size_t kMessageBytes = 256;
// The map's size.
inline constexpr int kRows = 21, kColumns = 79;

// A key of the keyboard as NetHack reads it.
using Key = uint8_t;

// A game that is played one key at a time: its own copy of the library, its own folder, its own buffers.
struct Game {
  NleFiles files;
  std::string options;        // NetHack's options string
  bool system_clock = false;  // see EnvironmentOptions
  HackDir folder;
  LibraryCopy library;
  void* context = nullptr;  // what nle_start returned; nullptr: no game is running
  std::unique_ptr<NleSettings> settings;
  // The buffers that `observation` points to; they keep their place and their content over episodes.
  std::vector<std::unique_ptr<char[]>> buffers;
  NleObservation observation;

  Game() = default;
  Game(const Game&) = delete;
  ~Game();
};

// What differs between games of different tasks.
struct GameOptions {
  const char* character = "mon-hum-neu-mal";  // role, race, gender, alignment; "@": drawn by the seed
  const char* pickup_types = "$?!/";          // what is picked up by walking over it
};

// Prepares a game that shows the named arrays and those that this folder's own code reads. FailedPrecondition: the
// package is missing (see FindNle).
absl::StatusOr<std::unique_ptr<Game>> MakeGame(absl::Span<const std::string> arrays, bool system_clock,
                                               const GameOptions& options = {});

// The array's buffer, which belongs to the game; nullptr: it is not shown.
const char* Array(const Game& game, const ArrayInfo& array);

// Abandons the game in progress, if any, and starts the one that `seed` determines, up to the point where the hero
// can act.
absl::Status Start(Game& game, uint64_t seed);

// Presses one key. Must not be called after the game's end (observation.done).
void Press(Game& game, Key key);

// Words of the questions that NLE leaves to the agent: what to eat, whom to attack, directions, prayer.
inline constexpr const char* kAgentsQuestions[] = {"eat", "attack", "direction?", "pray"};

// Presses what NLE presses by itself: space at --More-- and in menus, escape where text or a choice is asked for,
// except for choices whose question holds one of the words in `keep`. Before each space, `at_more` is called.
void PressKnownKeys(
    Game& game, absl::Span<const char* const> keep, absl::FunctionRef<void()> at_more = [] {});

// Quits the game in progress as a player would, answering every question.
void Quit(Game& game);

// The message line: up to its NUL, without one where it fills the array.
absl::string_view Message(const Game& game);

}  // namespace sibyl::nethack
