#include "environments/debug/nethack_replay.h"

#include <cstring>
#include <string>
#include <vector>

#include "common/action_spec.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/nethack/family.h"

namespace sibyl {
namespace {

constexpr char kRecorded[] = "nethack/Score";
constexpr size_t kGames = 4, kStepsAGame = 512, kSteps = kGames * kStepsAGame;

struct Recording {
  size_t observation_bytes = 0;
  std::string observations;  // [kSteps, observation_bytes]
  std::vector<float> rewards;
  std::vector<std::string> captions, contexts;
};

absl::StatusOr<Recording> Record() {
  const EnvironmentFamily family = nethack::Family();
  SIBYL_ASSIGN_OR_RETURN(const auto environment, family.make(kRecorded, {}));
  const v1::EnvironmentSpec& spec = environment->spec();
  Recording recording;
  recording.observation_bytes = ObservationBytes(spec);
  recording.observations.resize(kSteps * recording.observation_bytes);
  Random random(1);
  uint64_t seed = 1;
  bool over = true;
  for (size_t step = 0; step < kSteps; ++step) {
    std::vector<void*> arrays;
    char* at = &recording.observations[step * recording.observation_bytes];
    for (const v1::TensorSpec& array : spec.observation()) {
      arrays.push_back(at);
      at += Bytes(array);
    }
    float reward = 0;
    if (over || step % kStepsAGame == 0) {
      SIBYL_RETURN_IF_ERROR(environment->Reset(seed++, arrays));
      over = false;
    } else {
      const int action = static_cast<int>(random.Below(Choices(spec.action()).size()));
      SIBYL_ASSIGN_OR_RETURN(const StepResult result, environment->Step(action, arrays));
      reward = result.reward;
      over = result.terminated || result.truncated;
    }
    recording.rewards.push_back(reward);
    recording.captions.emplace_back(environment->Caption());
    recording.contexts.push_back(environment->Context());
  }
  return recording;
}

// The process' one recording.
const absl::StatusOr<Recording>& TheRecording() {
  static const auto& recording = *new absl::StatusOr<Recording>(Record());
  return recording;
}

class NetHackReplay : public Environment {
 public:
  NetHackReplay(v1::EnvironmentSpec spec, const Recording* recording)
      : spec_(std::move(spec)), recording_(*recording), figures_(spec_.figures_size()) {
    for (const v1::TensorSpec& array : spec_.observation()) array_bytes_.push_back(Bytes(array));
  }

  const v1::EnvironmentSpec& spec() const override { return spec_; }

  absl::Status Reset(uint64_t seed, ObservationBuffers observation) override {
    const uint64_t random = Mix64(seed);
    at_ = random % kSteps;
    length_ = 500 + static_cast<uint32_t>(random >> 32) % 1024;
    terminates_ = seed % 2 == 1;
    steps_ = 0;
    Observe(observation);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Step(ActionView, ObservationBuffers observation) override {
    at_ = (at_ + 1) % kSteps;
    ++steps_;
    Observe(observation);
    StepResult result;
    result.reward = recording_.rewards[at_];
    const bool own_end = steps_ == length_;
    result.terminated = own_end && terminates_;
    result.truncated = !result.terminated && (own_end || steps_ == spec_.max_episode_steps());
    result.package_terminated = result.terminated || result.truncated;
    return result;
  }

  absl::string_view Caption() const override { return recording_.captions[at_]; }
  std::string Context() const override { return recording_.contexts[at_]; }
  bool Success() const override { return false; }
  absl::Span<const double> Figures() const override { return figures_; }

 private:
  void Observe(ObservationBuffers observation) {
    const char* from = &recording_.observations[at_ * recording_.observation_bytes];
    for (size_t i = 0; i < array_bytes_.size(); ++i) {
      if (observation[i] != nullptr) std::memcpy(observation[i], from, array_bytes_[i]);
      from += array_bytes_[i];
    }
  }

  const v1::EnvironmentSpec spec_;
  const Recording& recording_;
  const std::vector<double> figures_;  // zeros
  std::vector<size_t> array_bytes_;
  size_t at_ = 0;  // what was shown last
  uint32_t steps_ = 0, length_ = 0;
  bool terminates_ = false;
};

}  // namespace

v1::EnvironmentSpec NetHackReplaySpec(const EnvironmentOptions& options) {
  EnvironmentOptions recorded;
  recorded.max_episode_steps = options.max_episode_steps;
  v1::EnvironmentSpec spec = nethack::Family().spec(kRecorded, recorded);
  spec.set_name(kNetHackReplayName);
  return spec;
}

absl::StatusOr<std::unique_ptr<Environment>> MakeNetHackReplay(const EnvironmentOptions& options) {
  const absl::StatusOr<Recording>& recording = TheRecording();
  if (!recording.ok()) return recording.status();
  return std::make_unique<NetHackReplay>(NetHackReplaySpec(options), &*recording);
}

}  // namespace sibyl
