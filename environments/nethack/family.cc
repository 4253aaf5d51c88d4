#include "environments/nethack/family.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/action_spec.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/nethack/figures.h"
#include "environments/nethack/game.h"
#include "environments/nethack/tasks.h"

namespace sibyl::nethack {
namespace {

constexpr char kPrefix[] = "nethack/";

// What a policy reads.
constexpr const char* kPolicyArrays[] = {"chars", "colors", "blstats", "message"};

bool IsPolicyArray(absl::string_view name) {
  for (const char* array : kPolicyArrays) {
    if (name == array) return true;
  }
  return false;
}

v1::EnvironmentSpec SpecOf(const Task& task, const EnvironmentOptions& options) {
  v1::EnvironmentSpec spec;
  spec.set_name(absl::StrCat(kPrefix, task.name));
  for (const ArrayInfo& array : AllArrays()) {
    if (!options.all_arrays && !IsPolicyArray(array.name)) continue;
    *spec.add_observation() = MakeTensorSpec(array.name, array.dtype, array.shape);
  }
  std::vector<std::string> actions;
  for (const Action& action : task.actions) actions.emplace_back(action.name);
  *spec.mutable_action() = OneOf(actions);
  for (const char* figure : kFigureNames) spec.add_figures(figure);
  spec.set_max_episode_steps(options.max_episode_steps != 0 ? options.max_episode_steps : task.max_episode_steps);
  return spec;
}

std::string HungerWord(int64_t hunger) {
  constexpr const char* kWords[] = {"satiated", "not hungry", "hungry", "weak", "fainting", "fainted", "starved"};
  return hunger >= 0 && hunger < int64_t{std::size(kWords)} ? kWords[hunger] : absl::StrCat("hunger ", hunger);
}

Moment MomentOf(const Game& game, double cells_seen) {
  Moment moment;
  std::memcpy(moment.blstats, game.observation.blstats, sizeof moment.blstats);
  moment.nutrition = game.observation.internal[kNutrition];
  moment.cells_seen = cells_seen;
  moment.in_normal_game = game.observation.in_normal_game != 0;
  return moment;
}

class NetHack : public Environment {
 public:
  NetHack(const Task& task, v1::EnvironmentSpec spec, std::unique_ptr<Game> game)
      : task_(task), spec_(std::move(spec)), game_(std::move(game)) {
    for (const v1::TensorSpec& wanted : spec_.observation()) {
      for (const ArrayInfo& array : AllArrays()) {
        if (wanted.name() == array.name) sources_.push_back({Array(*game_, array), Bytes(wanted)});
      }
    }
  }

  const v1::EnvironmentSpec& spec() const override { return spec_; }

  absl::Status Reset(uint64_t seed, ObservationBuffers observation) override {
    over_ = true;
    SIBYL_RETURN_IF_ERROR(Start(*game_, seed));
    over_ = false;
    steps_ = idle_steps_ = 0;
    reached_ = false;
    figures_ = nethack::Figures();
    Observe(observation);
    now_.cells_seen = 0;
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Step(ActionView played, ObservationBuffers observation) override {
    if (over_) return absl::FailedPreconditionError("nethack: Step after the end of an episode; call Reset");
    const int action = played.choice(), actions = static_cast<int>(std::size(task_.actions));
    if (action < 0 || action >= actions) {
      return absl::InvalidArgumentError(absl::StrCat("nethack: action ", action, " is not one of 0 to ", actions - 1));
    }
    const Moment before = now_;
    task_.play(*game_, task_.actions[action].key);
    ++steps_;
    Observe(observation);
    idle_steps_ = now_.blstats[kTime] == before.blstats[kTime] ? idle_steps_ + 1 : 0;

    const bool ended = game_->observation.done != 0;
    const bool idle = task_.max_idle_steps != 0 && idle_steps_ >= task_.max_idle_steps;
    const bool cut_off = !ended && (idle || steps_ >= spec_.max_episode_steps());
    // At the step limit it is too late, as in NLE.
    const bool reached = !ended && !cut_off && !reached_ && task_.at_goal != nullptr && task_.at_goal(*game_);
    reached_ |= reached;
    const bool finished = reached && !task_.continual;

    StepResult result;
    result.reward = static_cast<float>(task_.reward(before, now_, reached));
    result.terminated = ended || finished;
    result.truncated = cut_off;
    // NLE calls all ends termination, and being idle both.
    result.package_terminated = ended || finished || cut_off;
    result.package_truncated = cut_off && idle;
    over_ = ended || finished || cut_off;
    if (over_) figures_.values[kEndStatus] = ended ? 1 : finished ? 2 : -1;
    // After everything is copied: the keys that quit blank what the game shows.
    if (over_ && !ended) Quit(*game_);
    return result;
  }

  absl::string_view Caption() const override { return caption_; }

  std::string Context() const override {
    const int64_t* blstats = status_.blstats;
    return absl::StrCat("dungeon level ", blstats[kDepth], ", ", blstats[kGold], " gold, ", blstats[kHp], " of ",
                        blstats[kMaxHp], " hit points, experience level ", blstats[kLevel], ", ",
                        HungerWord(blstats[kHunger]));
  }

  bool Success() const override { return reached_; }

  absl::Span<const double> Figures() const override { return figures_.values; }

 private:
  struct Source {
    const char* bytes;
    size_t size;
  };

  void Observe(ObservationBuffers observation) {
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (observation[i] != nullptr) std::memcpy(observation[i], sources_[i].bytes, sources_[i].size);
    }
    Update(figures_, *game_);
    now_ = MomentOf(*game_, figures_.values[kScout]);
    if (now_.in_normal_game) status_ = now_;
    const absl::string_view message = Message(*game_);
    caption_.assign(message.data(), message.size());
  }

  const Task& task_;
  const v1::EnvironmentSpec spec_;
  const std::unique_ptr<Game> game_;
  std::vector<Source> sources_;  // one for each entry of spec_.observation
  bool over_ = true;
  uint32_t steps_ = 0;
  uint32_t idle_steps_ = 0;  // the last ones, in which no turn passed
  bool reached_ = false;     // the goal, in this episode
  Moment now_;
  Moment status_;  // the last one with a game in it
  nethack::Figures figures_;
  std::string caption_;
};

const Task& TaskOf(absl::string_view name) { return *FindTask(absl::StripPrefix(name, kPrefix)); }

}  // namespace

EnvironmentFamily Family() {
  return {
      kPrefix,
      [] {
        std::vector<std::string> names;
        for (const Task& task : Tasks()) names.push_back(absl::StrCat(kPrefix, task.name));
        return names;
      },
      [](absl::string_view name, const EnvironmentOptions& options) { return SpecOf(TaskOf(name), options); },
      [](absl::string_view name, const EnvironmentOptions& options) -> absl::StatusOr<std::unique_ptr<Environment>> {
        const Task& task = TaskOf(name);
        v1::EnvironmentSpec spec = SpecOf(task, options);
        std::vector<std::string> arrays;
        for (const v1::TensorSpec& array : spec.observation()) arrays.push_back(array.name());
        SIBYL_ASSIGN_OR_RETURN(std::unique_ptr<Game> game, MakeGame(arrays, options.system_clock, task.options));
        return std::make_unique<NetHack>(task, std::move(spec), std::move(game));
      }};
}

}  // namespace sibyl::nethack
