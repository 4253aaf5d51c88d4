#include "environments/debug/alignment.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/random.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

class Alignment : public Environment {
 public:
  explicit Alignment(v1::EnvironmentSpec spec) : spec_(std::move(spec)) {}

  const v1::EnvironmentSpec& spec() const override { return spec_; }

  absl::Status Reset(uint64_t seed, ObservationBuffers observation) override {
    seed_ = seed;
    step_ = 0;
    Observe(-1, observation);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Step(ActionView action, ObservationBuffers observation) override {
    ++step_;
    Observe(action.choice(), observation);
    StepResult result;
    result.reward = AlignmentReward(seed_, step_);
    const bool own_end = step_ == AlignmentLength(seed_);
    result.terminated = own_end && seed_ % 2 == 1;
    result.truncated = !result.terminated && (own_end || step_ == static_cast<int>(spec_.max_episode_steps()));
    result.package_terminated = result.terminated;
    result.package_truncated = result.truncated;
    return result;
  }

  absl::string_view Caption() const override { return caption_; }
  std::string Context() const override { return absl::StrCat("step ", step_); }
  bool Success() const override { return seed_ % 2 == 1; }
  absl::Span<const double> Figures() const override { return {&steps_, 1}; }

 private:
  void Observe(int action, ObservationBuffers observation) {
    const int64_t seed = static_cast<int64_t>(seed_);
    const int32_t step = step_, last = action;
    if (observation[0] != nullptr) std::memcpy(observation[0], &seed, sizeof seed);
    if (observation[1] != nullptr) std::memcpy(observation[1], &step, sizeof step);
    if (observation[2] != nullptr) std::memcpy(observation[2], &last, sizeof last);
    caption_ = AlignmentCaption(seed_, step_);
    steps_ = step_;
  }

  v1::EnvironmentSpec spec_;
  uint64_t seed_ = 0;
  int step_ = 0;
  double steps_ = 0;
  std::string caption_;
};

}  // namespace

v1::EnvironmentSpec AlignmentSpec(const EnvironmentOptions& options) {
  v1::EnvironmentSpec spec;
  spec.set_name(kAlignmentName);
  *spec.add_observation() = MakeTensorSpec("seed", v1::DTYPE_INT64, {});
  *spec.add_observation() = MakeTensorSpec("step", v1::DTYPE_INT32, {});
  *spec.add_observation() = MakeTensorSpec("last", v1::DTYPE_INT32, {});
  *spec.mutable_action() = OneOf({"action0", "action1", "action2", "action3"});
  spec.add_figures("steps");
  spec.set_max_episode_steps(options.max_episode_steps != 0 ? options.max_episode_steps : 50);
  return spec;
}

float AlignmentReward(uint64_t seed, int step) {
  return static_cast<float>(Mix64(seed ^ (uint64_t(step) << 48)) >> 40) * 0x1p-24f;
}

int AlignmentLength(uint64_t seed) { return static_cast<int>(3 + seed % 47); }

std::string AlignmentCaption(uint64_t seed, int step) {
  return step % 5 == 4 ? "" : absl::StrCat("step ", step % 3, " of ", seed);
}

absl::StatusOr<std::unique_ptr<Environment>> MakeAlignment(const EnvironmentOptions& options) {
  return std::make_unique<Alignment>(AlignmentSpec(options));
}

}  // namespace sibyl
