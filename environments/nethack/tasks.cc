#include "environments/nethack/tasks.h"

namespace sibyl::nethack {
namespace {

// NLE's 23 task actions, in its order.
constexpr Action kTaskActions[] = {
    {"more", '\r'},         {"north", 'k'},         {"east", 'l'},      {"south", 'j'},         {"west", 'h'},
    {"northeast", 'u'},     {"southeast", 'n'},     {"southwest", 'b'}, {"northwest", 'y'},     {"far_north", 'K'},
    {"far_east", 'L'},      {"far_south", 'J'},     {"far_west", 'H'},  {"far_northeast", 'U'}, {"far_southeast", 'N'},
    {"far_southwest", 'B'}, {"far_northwest", 'Y'}, {"up", '<'},        {"down", '>'},          {"wait", '.'},
    {"kick", 0x1f & 'd'},   {"eat", 'e'},           {"search", 's'},
};

// NetHackScore: the points won, less 0.01 for an action that took no turn.
double ScoreReward(const Moment& before, const Moment& after) {
  double reward = 0;
  // After the end blstats are zero, which is no loss of points.
  if (after.in_normal_game) reward += static_cast<double>(after.blstats[kScore] - before.blstats[kScore]);
  if (after.blstats[kTime] == before.blstats[kTime]) reward += -0.01;
  return reward;
}

constexpr Task kTasks[] = {
    {"Score", kTaskActions, 5000, ScoreReward},
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
