#include "environments/debug/targets.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

constexpr uint32_t kLength = 16;
constexpr int kChoices[] = {3, 4}, kAllChoices = 7, kNumbers = 3;
constexpr float kLow[] = {-2, 0, -std::numeric_limits<float>::infinity()};
constexpr float kHigh[] = {2, 10, std::numeric_limits<float>::infinity()};

// Reset, Step and the rest of both; what is shown and what it pays is the task's.
class Targets : public Environment {
 public:
  explicit Targets(v1::EnvironmentSpec spec) : spec_(std::move(spec)) {}

  const v1::EnvironmentSpec& spec() const override { return spec_; }

  absl::Status Reset(uint64_t seed, ObservationBuffers observation) override {
    random_ = Random(Mix64(seed));
    steps_ = 0;
    illegal_ = 0;
    hit_ = false;
    Show(observation);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Step(ActionView action, ObservationBuffers observation) override {
    StepResult result;
    result.reward = Pay(action);
    hit_ = result.reward > 0.9f;
    ++steps_;
    result.truncated = result.package_truncated = steps_ == spec_.max_episode_steps();
    Show(observation);
    return result;
  }

  absl::string_view Caption() const override { return hit_ ? "You hit the target." : ""; }
  std::string Context() const override { return absl::StrCat("step ", steps_); }
  bool Success() const override { return hit_; }
  absl::Span<const double> Figures() const override { return {&illegal_, 1}; }

 protected:
  // Draws the next target and shows it.
  virtual void Show(ObservationBuffers observation) = 0;
  // What the action is paid for the target that was shown.
  virtual float Pay(ActionView action) = 0;

  const v1::EnvironmentSpec spec_;
  Random random_{0};
  uint32_t steps_ = 0;
  double illegal_ = 0;
  bool hit_ = false;
};

class ChoiceTargets : public Targets {
 public:
  using Targets::Targets;

 private:
  void Show(ObservationBuffers observation) override {
    uint8_t target[kAllChoices] = {};
    for (uint8_t& legal : legal_) legal = random_.Below(2) == 0;
    int begin = 0;
    for (int part = 0; part < 2; begin += kChoices[part++]) {
      target_[part] = static_cast<int>(random_.Below(kChoices[part]));
      target[begin + target_[part]] = legal_[begin + target_[part]] = 1;
    }
    if (observation[0] != nullptr) std::memcpy(observation[0], target, sizeof target);
    if (observation[1] != nullptr) std::memcpy(observation[1], legal_, sizeof legal_);
  }

  float Pay(ActionView action) override {
    float reward = 0;
    int begin = 0;
    for (int part = 0; part < 2; begin += kChoices[part++]) {
      illegal_ += legal_[begin + action.choice(part)] == 0;
      reward += action.choice(part) == target_[part] ? 0.5f : 0;
    }
    return reward;
  }

  int target_[2] = {};
  uint8_t legal_[kAllChoices] = {};
};

class ReachTargets : public Targets {
 public:
  using Targets::Targets;

 private:
  void Show(ObservationBuffers observation) override {
    for (float& target : target_) target = 2 * random_.Uniform() - 1;
    if (observation[0] != nullptr) std::memcpy(observation[0], target_, sizeof target_);
  }

  float Pay(ActionView action) override {
    float distance = 0;
    for (int i = 0; i < kNumbers; ++i) {
      const float middle = i == 1 ? 5 : 0, reach = i == 0 ? 2 : i == 1 ? 5 : 1;
      illegal_ += action.number(i) < kLow[i] || action.number(i) > kHigh[i];
      distance += std::abs((action.number(i) - middle) / reach - target_[i]) / kNumbers;
    }
    return std::max(-1.0f, 1 - distance);
  }

  float target_[kNumbers] = {};
};

}  // namespace

v1::EnvironmentSpec TargetsSpec(absl::string_view name, const EnvironmentOptions& options) {
  v1::EnvironmentSpec spec;
  spec.set_name(std::string(name));
  if (name == kChoicesName) {
    *spec.add_observation() = MakeTensorSpec("target", v1::DTYPE_UINT8, {kAllChoices});
    *spec.add_observation() = MakeTensorSpec("legal", v1::DTYPE_UINT8, {kAllChoices});
    for (const int choices : kChoices) {
      v1::ActionSpec::Part* part = spec.mutable_action()->mutable_discrete()->add_parts();
      part->set_name(absl::StrCat("of ", choices));
      for (int i = 0; i < choices; ++i) part->add_choices(absl::StrCat(i));
    }
    spec.mutable_action()->set_mask("legal");
  } else {
    *spec.add_observation() = MakeTensorSpec("target", v1::DTYPE_FLOAT32, {kNumbers});
    for (int i = 0; i < kNumbers; ++i) {
      spec.mutable_action()->mutable_box()->add_low(kLow[i]);
      spec.mutable_action()->mutable_box()->add_high(kHigh[i]);
    }
  }
  spec.add_figures("illegal_choices");
  spec.set_max_episode_steps(options.max_episode_steps != 0 ? options.max_episode_steps : kLength);
  return spec;
}

absl::StatusOr<std::unique_ptr<Environment>> MakeTargets(absl::string_view name, const EnvironmentOptions& options) {
  if (name == kChoicesName) return std::make_unique<ChoiceTargets>(TargetsSpec(name, options));
  return std::make_unique<ReachTargets>(TargetsSpec(name, options));
}

}  // namespace sibyl
