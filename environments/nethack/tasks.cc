#include "environments/nethack/tasks.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "environments/nethack/play.h"

namespace sibyl::nethack {
namespace {

// NLE's 23 task actions, in its order, and the five that ONI adds.
constexpr Action kActions[] = {
    {"more", '\r'},         {"north", 'k'},         {"east", 'l'},      {"south", 'j'},         {"west", 'h'},
    {"northeast", 'u'},     {"southeast", 'n'},     {"southwest", 'b'}, {"northwest", 'y'},     {"far_north", 'K'},
    {"far_east", 'L'},      {"far_south", 'J'},     {"far_west", 'H'},  {"far_northeast", 'U'}, {"far_southeast", 'N'},
    {"far_southwest", 'B'}, {"far_northwest", 'Y'}, {"up", '<'},        {"down", '>'},          {"wait", '.'},
    {"kick", 0x1f & 'd'},   {"eat", 'e'},           {"search", 's'},    {"cast", 'Z'},          {"quaff", 'q'},
    {"pray", 0x80 | 'p'},   {"pickup", ','},        {"pay", 'p'},
};
constexpr absl::Span<const Action> kExtended = kActions, kBasic = kExtended.first(23);

// NLE's whole keyboard, in its order. Some keys have two names.
constexpr Action kKeyboard[] = {
    {"north", 107},        {"east", 108},      {"south", 106},        {"west", 104},         {"northeast", 117},
    {"southeast", 110},    {"southwest", 98},  {"northwest", 121},    {"far_north", 75},     {"far_east", 76},
    {"far_south", 74},     {"far_west", 72},   {"far_northeast", 85}, {"far_southeast", 78}, {"far_southwest", 66},
    {"far_northwest", 89}, {"up", 60},         {"down", 62},          {"wait", 46},          {"more", 13},
    {"extcmd", 35},        {"extlist", 191},   {"adjust", 225},       {"annotate", 193},     {"apply", 97},
    {"attributes", 24},    {"autopickup", 64}, {"call", 67},          {"cast", 90},          {"chat", 227},
    {"close", 99},         {"conduct", 195},   {"dip", 228},          {"drop", 100},         {"droptype", 68},
    {"eat", 101},          {"engrave", 69},    {"enhance", 229},      {"esc", 27},           {"fight", 70},
    {"fire", 102},         {"force", 230},     {"glance", 59},        {"history", 86},       {"inventory", 105},
    {"inventtype", 73},    {"invoke", 233},    {"jump", 234},         {"kick", 4},           {"known", 92},
    {"knownclass", 96},    {"look", 58},       {"loot", 236},         {"monster", 237},      {"move", 109},
    {"movefar", 77},       {"offer", 239},     {"open", 111},         {"options", 79},       {"overview", 15},
    {"pay", 112},          {"pickup", 44},     {"pray", 240},         {"puton", 80},         {"quaff", 113},
    {"quit", 241},         {"quiver", 81},     {"read", 114},         {"redraw", 18},        {"remove", 82},
    {"ride", 210},         {"rub", 242},       {"rush", 103},         {"rush2", 71},         {"save", 83},
    {"search", 115},       {"seeall", 42},     {"seeamulet", 34},     {"seearmor", 91},      {"seegold", 36},
    {"seerings", 61},      {"seespells", 43},  {"seetools", 40},      {"seetrap", 94},       {"seeweapon", 41},
    {"shell", 33},         {"sit", 243},       {"swap", 120},         {"takeoff", 84},       {"takeoffall", 65},
    {"teleport", 20},      {"throw", 116},     {"tip", 212},          {"travel", 95},        {"turn", 244},
    {"twoweapon", 88},     {"untrap", 245},    {"version", 246},      {"versionshort", 118}, {"wear", 87},
    {"whatdoes", 38},      {"whatis", 47},     {"wield", 119},        {"wipe", 247},         {"zap", 122},
    {"plus", 43},          {"minus", 45},      {"space", 32},         {"apos", 39},          {"quote", 34},
    {"num_0", 48},         {"num_1", 49},      {"num_2", 50},         {"num_3", 51},         {"num_4", 52},
    {"num_5", 53},         {"num_6", 54},      {"num_7", 55},         {"num_8", 56},         {"num_9", 57},
    {"dollar", 36},
};

constexpr int16_t kOracle = 270, kFirstPet = 381, kPetsEnd = 762;  // glyphs

// The points won.
double ScoreGain(const Moment& before, const Moment& after) {
  // After the end blstats are zero, which is no loss of points.
  return after.in_normal_game ? static_cast<double>(after.blstats[kScore] - before.blstats[kScore]) : 0;
}

// NLE's penalty for an action that took no turn.
double Idle(const Moment& before, const Moment& after) {
  return after.blstats[kTime] == before.blstats[kTime] ? -0.01 : 0;
}

double Score(const Moment& before, const Moment& after, bool) { return ScoreGain(before, after) + Idle(before, after); }
double Challenge(const Moment& before, const Moment& after, bool) { return ScoreGain(before, after); }
double OneAtGoal(const Moment& before, const Moment& after, bool reached) { return reached + Idle(before, after); }
double Gold(const Moment& before, const Moment& after, bool) {
  if (!after.in_normal_game) return 0;
  return static_cast<double>(after.blstats[kGold] - before.blstats[kGold]) + Idle(before, after);
}
double Eat(const Moment& before, const Moment& after, bool) {
  if (!after.in_normal_game) return 0;
  return static_cast<double>(std::max<int64_t>(0, after.nutrition - before.nutrition)) + Idle(before, after);
}
double Scout(const Moment& before, const Moment& after, bool) {
  if (!after.in_normal_game) return 0;
  return after.cells_seen - before.cells_seen + Idle(before, after);
}
double FiftyAtGoal(const Moment&, const Moment&, bool reached) { return reached ? 50 : 0; }

// Whether a glyph from `first` up to `end` stands within one step of the hero, diagonally too.
bool IsNear(const Game& game, int16_t first, int16_t end) {
  const int64_t x = game.observation.blstats[kX], y = game.observation.blstats[kY];
  // As NLE: nothing is near to a hero in the first row or column.
  if (x < 1 || y < 1) return false;
  for (int64_t row = y - 1; row <= std::min<int64_t>(y + 1, kRows - 1); ++row) {
    for (int64_t column = x - 1; column <= std::min<int64_t>(x + 1, kColumns - 1); ++column) {
      const int16_t glyph = game.observation.glyphs[row * kColumns + column];
      if (glyph >= first && glyph < end) return true;
    }
  }
  return false;
}

bool OnStairsDown(const Game& game) { return game.observation.internal[kOnStairsDown] != 0; }
bool OnStairsDownWithPet(const Game& game) { return OnStairsDown(game) && IsNear(game, kFirstPet, kPetsEnd); }
bool NearOracle(const Game& game) { return IsNear(game, kOracle, kOracle + 1); }
bool NearOracleSober(const Game& game) {
  return NearOracle(game) && (game.observation.blstats[kConditions] & kHallucinating) == 0;
}
template <int kTarget>
bool DescendedTo(const Game& game) {
  return game.observation.blstats[kDungeonLevel] == kTarget &&
         absl::StrContains(Message(game), "You descend the stairs");
}

constexpr Task kTasks[] = {
    // NLE's own.
    {"Score", kBasic, PlayAsNle, Score},
    {"Staircase", kBasic, PlayAsNle, OneAtGoal, OnStairsDown},
    {"StaircasePet", kBasic, PlayAsNle, OneAtGoal, OnStairsDownWithPet},
    {"Oracle", kBasic, PlayAsNle, OneAtGoal, NearOracle},
    {"Gold", kBasic, PlayAsNle, Gold, nullptr, false, 5000, 0, {.pickup_types = "$"}},
    {"Eat", kBasic, PlayAsNle, Eat},
    {"Scout", kBasic, PlayAsNle, Scout},
    {"Challenge", kKeyboard, PlayRaw, Challenge, nullptr, false, 1'000'000, 5000, {.character = "@"}},
    // ONI's, with NLE's actions.
    {"StaircaseLvl2", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<2>},
    {"StaircaseLvl3", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<3>},
    {"StaircaseLvl4", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<4>},
    {"StaircaseLvl2Continual", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<2>, true},
    {"StaircaseLvl3Continual", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<3>, true},
    {"StaircaseLvl4Continual", kBasic, PlayAsOni, FiftyAtGoal, DescendedTo<4>, true},
    {"OracleSober", kBasic, PlayAsOni, FiftyAtGoal, NearOracleSober},
    // ONI's, with its actions.
    {"ScoreExtended", kExtended, PlayAsOni, Score},
    {"StaircaseLvl2Extended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<2>},
    {"StaircaseLvl3Extended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<3>},
    {"StaircaseLvl4Extended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<4>},
    {"StaircaseLvl2ContinualExtended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<2>, true},
    {"StaircaseLvl3ContinualExtended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<3>, true},
    {"StaircaseLvl4ContinualExtended", kExtended, PlayAsOni, FiftyAtGoal, DescendedTo<4>, true},
    {"OracleExtended", kExtended, PlayAsOni, FiftyAtGoal, NearOracle},
    {"OracleSoberExtended", kExtended, PlayAsOni, FiftyAtGoal, NearOracleSober},
};

}  // namespace

absl::Span<const Task> Tasks() { return kTasks; }

const Task* FindTask(absl::string_view name) {
  for (const Task& task : kTasks) {
    if (name == task.name) return &task;
  }
  return nullptr;
}

}  // namespace sibyl::nethack
