#include "environments/nethack/game.h"

#include <cstring>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"

namespace sibyl::nethack {
namespace {

// As NLE's Python package sets them: what the game asks and prints, what is picked up, no bones of earlier games.
constexpr const char* kOptions[] = {
    "autopickup", "color",     "disclose:+i +a +v +g +c +o", "mention_walls",    "nobones", "nocmdassist",
    "nolegacy",   "nosparkle", "pickup_burden:unencumbered", "runmode:teleport", "showexp", "showscore",
    "time",
};

constexpr Key kSpace = ' ', kEscape = 0x1b, kYes = 'y', kQuit = 0x80 | 'q';

constexpr int64_t kYear2000 = 946'684'800;  // seconds since 1970

// NLE gives up after as many spaces.
constexpr int kMostKeysToStart = 1000;

enum ProgramState { kInMoveLoop = 3 };

constexpr const char* kAlwaysShown[] = {"glyphs", "blstats", "message", "program_state", "internal"};

void Abandon(Game& game) {
  if (game.context != nullptr) game.library.end(game.context);
  game.context = nullptr;
  game.library = LibraryCopy();
}

char*& Pointer(NleObservation& observation, const ArrayInfo& array) {
  return *reinterpret_cast<char**>(reinterpret_cast<char*>(&observation) + array.pointer);
}

}  // namespace

absl::Span<const ArrayInfo> AllArrays() {
  using v1::DTYPE_INT16, v1::DTYPE_INT32, v1::DTYPE_INT64, v1::DTYPE_UINT8;
  static const auto& arrays = *new std::vector<ArrayInfo>{
      {"glyphs", DTYPE_INT16, {21, 79}, offsetof(NleObservation, glyphs)},
      {"chars", DTYPE_UINT8, {21, 79}, offsetof(NleObservation, chars)},
      {"colors", DTYPE_UINT8, {21, 79}, offsetof(NleObservation, colors)},
      {"specials", DTYPE_UINT8, {21, 79}, offsetof(NleObservation, specials)},
      {"blstats", DTYPE_INT64, {kBlstats}, offsetof(NleObservation, blstats)},
      {"message", DTYPE_UINT8, {kMessageBytes}, offsetof(NleObservation, message)},
      {"program_state", DTYPE_INT32, {6}, offsetof(NleObservation, program_state)},
      {"internal", DTYPE_INT32, {9}, offsetof(NleObservation, internal)},
      {"inv_glyphs", DTYPE_INT16, {55}, offsetof(NleObservation, inv_glyphs)},
      {"inv_letters", DTYPE_UINT8, {55}, offsetof(NleObservation, inv_letters)},
      {"inv_oclasses", DTYPE_UINT8, {55}, offsetof(NleObservation, inv_oclasses)},
      {"inv_strs", DTYPE_UINT8, {55, 80}, offsetof(NleObservation, inv_strs)},
      {"tty_chars", DTYPE_UINT8, {24, 80}, offsetof(NleObservation, tty_chars)},
      {"tty_colors", DTYPE_UINT8, {24, 80}, offsetof(NleObservation, tty_colors)},
      {"tty_cursor", DTYPE_UINT8, {2}, offsetof(NleObservation, tty_cursor)},
      {"misc", DTYPE_INT32, {3}, offsetof(NleObservation, misc)},
  };
  return arrays;
}

Game::~Game() { Abandon(*this); }

absl::StatusOr<std::unique_ptr<Game>> MakeGame(absl::Span<const std::string> arrays, bool system_clock,
                                               const GameOptions& options) {
  auto game = std::make_unique<Game>();
  game->system_clock = system_clock;
  SIBYL_ASSIGN_OR_RETURN(game->files, FindNle());
  // Loaded once here so that what is wrong with the package is said before the first Reset.
  SIBYL_RETURN_IF_ERROR(LibraryCopy::Load(game->files.library).status());
  SIBYL_ASSIGN_OR_RETURN(game->folder, HackDir::Make(game->files.data));
  game->options = absl::StrCat(absl::StrJoin(kOptions, ","), ",pickup_types:", options.pickup_types, ",name:Agent-",
                               options.character);
  if (absl::string_view(options.character) == "@") {
    absl::StrAppend(&game->options, ",race:random,gender:random,align:random");
  }
  game->settings = std::make_unique<NleSettings>();
  if (game->folder.path().size() + 2 >= sizeof game->settings->hackdir) {
    return absl::FailedPreconditionError(absl::StrCat("nethack: the path ", game->folder.path(), " is too long"));
  }
  for (const ArrayInfo& array : AllArrays()) {
    const auto named = [&](const std::string& name) { return name == array.name; };
    if (!absl::c_any_of(kAlwaysShown, named) && !absl::c_any_of(arrays, named)) continue;
    game->buffers.push_back(std::make_unique<char[]>(Bytes(MakeTensorSpec("", array.dtype, array.shape))));
    Pointer(game->observation, array) = game->buffers.back().get();
  }
  return game;
}

const char* Array(const Game& game, const ArrayInfo& array) {
  return *reinterpret_cast<char* const*>(reinterpret_cast<const char*>(&game.observation) + array.pointer);
}

absl::Status Start(Game& game, uint64_t seed) {
  // The library forgets everything only by being loaded anew.
  Abandon(game);
  SIBYL_RETURN_IF_ERROR(game.folder.Clear());
  SIBYL_ASSIGN_OR_RETURN(game.library, LibraryCopy::Load(game.files.library));

  *game.settings = NleSettings();
  std::strcpy(game.settings->hackdir, game.folder.path().c_str());
  std::strcpy(game.settings->options, game.options.c_str());
  game.settings->spawn_monsters = 1;
  game.settings->seeds.core = game.settings->seeds.disp = seed;
  game.settings->seeds.use_seeds = true;
  game.settings->fix_moon_phase = true;
  game.settings->time_seed = seed + 1;  // as NLE derives it
  game.settings->time_seed_is_set = true;

  game.observation.action = 0;
  game.observation.done = 0;
  game.observation.how_done = 0;
  game.observation.in_normal_game = 0;
  if (game.system_clock) {
    TellTime(std::nullopt);
  } else {
    TellTime(kYear2000 + static_cast<int64_t>(Mix64(seed) % (366 * 86'400)));  // some second of that year
  }
  game.context = game.library.start(&game.observation, nullptr, game.settings.get());
  for (int i = 0; i < kMostKeysToStart && game.observation.done == 0; ++i) {
    if (game.observation.program_state[kInMoveLoop] != 0) return absl::OkStatus();
    Press(game, kSpace);
  }
  return absl::InternalError(absl::StrCat("nethack: the game of seed ", seed, " did not start; is ", game.folder.path(),
                                          " writable and not full?"));
}

void Press(Game& game, Key key) {
  game.observation.action = key;
  game.context = game.library.step(game.context, &game.observation);
}

void PressKnownKeys(Game& game, absl::Span<const char* const> keep, absl::FunctionRef<void()> at_more) {
  const int32_t* waits = game.observation.internal;
  while (game.observation.done == 0) {
    if (waits[kAwaitsSpace] != 0) {
      at_more();
      Press(game, kSpace);
    } else if (waits[kInGetLine] != 0) {
      Press(game, kEscape);
    } else {
      break;
    }
  }
  if (game.observation.done != 0 || waits[kInYesNo] == 0) return;
  const absl::string_view message(reinterpret_cast<const char*>(game.observation.message), kMessageBytes);
  for (const char* words : keep) {
    if (absl::StrContains(message, words)) return;
  }
  // One escape only, as in NLE: what the game shows next is the agent's to answer.
  Press(game, kEscape);
}

void Quit(Game& game) {
  PressKnownKeys(game, {});
  for (const Key key : {kQuit, kYes}) {
    if (game.observation.done == 0) Press(game, key);
  }
  PressKnownKeys(game, {});
}

absl::string_view Message(const Game& game) {
  const char* text = reinterpret_cast<const char*>(game.observation.message);
  return {text, strnlen(text, kMessageBytes)};
}

}  // namespace sibyl::nethack
