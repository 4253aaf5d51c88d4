#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// NetHack as the Python package nle 1.3.0 ships it: one shared library that keeps a whole game in its globals. The
// package has no C headers, so the layout of what crosses the border is declared here, from its documentation.

namespace sibyl::nethack {

// The only version whose layout this file knows.
inline constexpr char kNleVersion[] = "1.3.0";

// What the game shows after a key. Each pointer is filled in when the game next waits for a key; nullptr: skipped,
// which saves the game's time. The buffers must stay where they are for the length of a game.
struct NleObservation {
  int32_t action = 0;       // in: the key
  int32_t done = 0;         // out: the game has ended
  char in_normal_game = 0;  // out: the arrays show a game; before its start and after its end they are blank
  int32_t how_done = 0;
  int16_t* glyphs = nullptr;               // [21, 79]
  uint8_t* chars = nullptr;                // [21, 79]
  uint8_t* colors = nullptr;               // [21, 79]
  uint8_t* specials = nullptr;             // [21, 79]
  int64_t* blstats = nullptr;              // [27]
  uint8_t* message = nullptr;              // [256]
  int32_t* program_state = nullptr;        // [6]
  int32_t* internal = nullptr;             // [9]
  int16_t* inv_glyphs = nullptr;           // [55]
  uint8_t* inv_strs = nullptr;             // [55, 80]
  uint8_t* inv_letters = nullptr;          // [55]
  uint8_t* inv_oclasses = nullptr;         // [55]
  uint8_t* screen_descriptions = nullptr;  // [21, 79, 80]; asking for it changes the game, so nobody does
  uint8_t* tty_chars = nullptr;            // [24, 80]
  int8_t* tty_colors = nullptr;            // [24, 80]
  uint8_t* tty_cursor = nullptr;           // [2]
  int32_t* misc = nullptr;                 // [3]
};
static_assert(offsetof(NleObservation, glyphs) == 16 && sizeof(NleObservation) == 152);

struct NleSeeds {
  uint64_t core = 0;  // the game's random numbers
  uint64_t disp = 0;  // those of what is only displayed
  int8_t reseed = 0;  // reseed from the system now and then
  bool use_seeds = false;
  uint64_t lgen = 0;  // random numbers of level generation alone
  bool use_lgen = false;
};

struct NleSettings {
  char hackdir[4096] = {};
  char scoreprefix[4096] = {};
  char options[32768] = {};
  char wizkit[4096] = {};
  int32_t spawn_monsters = 0;
  char ttyrecname[4096] = {};
  NleSeeds seeds;
  bool fix_moon_phase = false;  // moon phase, Friday 13th, night from time_seed instead of the clock
  uint64_t time_seed = 0;
  bool time_seed_is_set = false;
  // The game copies the first 49,224 bytes; the rest is room to be wrong in.
  char reserve[4096] = {};
};
static_assert(offsetof(NleSettings, seeds) == 49160 && offsetof(NleSettings, time_seed_is_set) == 49216);

// Where the files of the `nle` package lie.
struct NleFiles {
  std::string library;  // libnethack.so
  std::string data;     // nhdat: levels, texts
};

// Looks in the folder that the environment variable SIBYL_NLE names; where it is not set, in the folder that the build
// found the package in, then in ../share/sibyl/nle seen from the program's own folder.
// FailedPrecondition: none of them holds nle 1.3.0; the message says what was looked for, where, and the remedy.
absl::StatusOr<NleFiles> FindNle();

// What time it is, in seconds since 1970, for the games that the calling thread starts from here on; nothing: what the
// system's clock says.
void TellTime(std::optional<int64_t> seconds);

// A private copy of the library, and so of the globals of one game. The copy's code and constants are the pages of
// the file itself, which all copies and processes share. What the library would do to the whole process is kept from
// it: it installs no signal handlers, does not sleep, and sees the clock only through TellTime.
class LibraryCopy {
 public:
  static absl::StatusOr<LibraryCopy> Load(const std::string& library);

  LibraryCopy() = default;
  LibraryCopy(LibraryCopy&& other) noexcept { *this = std::move(other); }
  LibraryCopy& operator=(LibraryCopy&& other) noexcept;
  ~LibraryCopy();

  // The library's functions; nullptr where nothing is loaded.
  void* (*start)(NleObservation*, FILE* ttyrec, NleSettings*) = nullptr;
  void* (*step)(void* game, NleObservation*) = nullptr;
  void (*end)(void* game) = nullptr;

 private:
  void* handle_ = nullptr;
  int file_ = -1;
};

}  // namespace sibyl::nethack
