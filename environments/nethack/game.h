#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  kBlstats = 27
};

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

// Prepares a game that shows the named arrays and those that this folder's own code reads. FailedPrecondition: the
// package is missing (see FindNle).
absl::StatusOr<std::unique_ptr<Game>> MakeGame(absl::Span<const std::string> arrays, bool system_clock);

// The array's buffer, which belongs to the game; nullptr: it is not shown.
const char* Array(const Game& game, const ArrayInfo& array);

// Abandons the game in progress, if any, and starts the one that `seed` determines, up to the point where the hero
// can act.
absl::Status Start(Game& game, uint64_t seed);

// Presses one key. Must not be called after the game's end (observation.done).
void Press(Game& game, Key key);

// Presses what NLE presses by itself: space at --More--, escape where text or a choice is asked for, except, with
// `keep_questions`, for the choices that an agent makes (what to eat, whom to attack, directions, prayer).
void PressKnownKeys(Game& game, bool keep_questions);

// Quits the game in progress as a player would, answering every question.
void Quit(Game& game);

// The message line: up to its NUL, without one where it fills the array.
absl::string_view Message(const Game& game);

}  // namespace sibyl::nethack
