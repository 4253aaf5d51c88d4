#include "environments/minigrid/family.h"

#include <cassert>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/tensor_spec.h"
#include "environments/minigrid/levels.h"
#include "environments/minigrid/text.h"
#include "environments/minigrid/view.h"

namespace sibyl::minigrid {
namespace {

constexpr const char* kActions[] = {"left", "right", "forward", "pickup", "drop", "toggle", "done"};

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const Level& level : Levels()) names.emplace_back(level.name);
  return names;
}

v1::EnvironmentSpec Spec(absl::string_view name, const EnvironmentOptions& options) {
  const Level* level = FindLevel(name);
  assert(level != nullptr);
  v1::EnvironmentSpec spec;
  spec.set_name(std::string(name));
  *spec.add_observation() = MakeTensorSpec("image", v1::DTYPE_UINT8, {kViewSize, kViewSize, 3});
  *spec.add_observation() = MakeTensorSpec("direction", v1::DTYPE_INT64, {});
  *spec.mutable_action() = OneOf({std::begin(kActions), std::end(kActions)});
  spec.add_figures("doors_opened");
  spec.add_figures("objects_picked");
  spec.set_max_episode_steps(options.max_episode_steps != 0 ? options.max_episode_steps : level->max_steps);
  return spec;
}

class MiniGrid : public Environment {
 public:
  MiniGrid(const Level& level, v1::EnvironmentSpec spec)
      : level_(level), spec_(std::move(spec)), max_steps_(spec_.max_episode_steps()) {}

  const v1::EnvironmentSpec& spec() const override { return spec_; }

  absl::Status Reset(uint64_t seed, ObservationBuffers observation) override {
    Generate(level_, seed, world_);
    steps_ = 0;
    success_ = false;
    caption_ = {};
    doors_opened_ = objects_picked_ = 0;
    Observe(observation);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Step(ActionView played, ObservationBuffers observation) override {
    const int action = played.choice();
    assert(action >= 0 && action < static_cast<int>(std::size(kActions)));
    ++steps_;
    const Outcome outcome = Act(world_, static_cast<Action>(action));
    caption_ = EventCaption(outcome.event);
    success_ = outcome.success;
    Count(outcome.event.kind);
    Observe(observation);

    StepResult result;
    if (outcome.success) {
      result.reward = static_cast<float>(1 - 0.9 * (static_cast<double>(steps_) / max_steps_));
    }
    const bool out_of_steps = steps_ >= max_steps_;
    result.terminated = outcome.terminated;
    result.truncated = out_of_steps && !outcome.terminated;
    result.package_terminated = outcome.terminated;
    result.package_truncated = out_of_steps;
    return result;
  }

  absl::string_view Caption() const override { return caption_; }
  std::string Context() const override { return Describe(world_); }
  bool Success() const override { return success_; }
  absl::Span<const double> Figures() const override { return figures_; }

 private:
  void Observe(ObservationBuffers observation) const {
    if (observation[0] != nullptr) {
      View view;
      LookAround(world_, view);
      WriteImage(view, static_cast<uint8_t*>(observation[0]));
    }
    if (observation[1] != nullptr) {
      const int64_t direction = world_.direction;
      std::memcpy(observation[1], &direction, sizeof direction);
    }
  }

  void Count(Event::Kind kind) {
    if (kind == Event::Kind::kOpen || kind == Event::Kind::kUnlock) ++doors_opened_;
    if (kind == Event::Kind::kPickUp) ++objects_picked_;
  }

  const Level& level_;
  const v1::EnvironmentSpec spec_;
  const uint32_t max_steps_;
  World world_;
  uint32_t steps_ = 0;
  bool success_ = false;
  absl::string_view caption_;
  double figures_[2] = {};
  double& doors_opened_ = figures_[0];
  double& objects_picked_ = figures_[1];
};

}  // namespace

EnvironmentFamily Family() {
  return {
      "minigrid/", Names, Spec,
      [](absl::string_view name, const EnvironmentOptions& options) -> absl::StatusOr<std::unique_ptr<Environment>> {
        const Level* level = FindLevel(name);
        if (level == nullptr) return absl::NotFoundError(absl::StrCat("no MiniGrid level is called `", name, "`"));
        return std::make_unique<MiniGrid>(*level, Spec(name, options));
      }};
}

}  // namespace sibyl::minigrid
