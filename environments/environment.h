#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/columns.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// Where an environment writes an observation: one pointer for each entry of EnvironmentSpec.observation, to room for
// that array (row-major, native byte order, no alignment promised). nullptr: this array is not wanted. The caller owns
// the memory, which need live only during the call.
using ObservationBuffers = absl::Span<void* const>;

// One action, in the environment's units.
class ActionView {
 public:
  // The action of an environment whose action is one choice.
  ActionView(int choice) : choice_(choice) {}  // NOLINT: an index is an action
  // The action at `bytes`, laid out as ActionSpec says. The caller owns the memory, which need live only as long as
  // this.
  explicit ActionView(const char* bytes) : bytes_(bytes) {}

  // The choice of a part, for discrete actions.
  int choice(int part = 0) const { return bytes_ == nullptr ? choice_ : EntryOf<uint16_t>(bytes_, part); }
  // A number of a box. Only for an action made from bytes.
  float number(int i) const { return EntryOf<float>(bytes_, i); }

 private:
  int choice_ = 0;
  const char* bytes_ = nullptr;
};

struct StepResult {
  float reward = 0;
  // The episode ended in a state from which nothing more can be earned.
  bool terminated = false;
  // The episode was cut off (a step limit); its last observation has a value.
  bool truncated = false;
  // The flags that the environment's Python package reports for this step, where they differ from the above.
  bool package_terminated = false;
  bool package_truncated = false;
};

// One game. Used by one thread at a time. Construct, then Reset, then Step until terminated or truncated, then Reset;
// or Reset earlier, which gives the episode up.
class Environment {
 public:
  virtual ~Environment() = default;

  // Constant over the environment's life.
  virtual const v1::EnvironmentSpec& spec() const = 0;

  // Starts the episode that `seed` determines, and writes its first observation. The same seed gives the same episode
  // in any process, on any day, whatever was played before.
  virtual absl::Status Reset(uint64_t seed, ObservationBuffers observation) = 0;

  // Plays an action of spec().action() and writes the observation it led to: the final one where the episode ended.
  // Must not be called after the end of an episode.
  virtual absl::StatusOr<StepResult> Step(ActionView action, ObservationBuffers observation) = 0;

  // What happened at the last Reset or Step, as text; empty when nothing did. Valid until the next call.
  virtual absl::string_view Caption() const = 0;

  // What is in view, for a judge's prompt; never part of the caption.
  virtual std::string Context() const = 0;

  // Whether the episode that ended reached its goal.
  virtual bool Success() const = 0;

  // Values of spec().figures for the episode so far. Valid until the next call.
  virtual absl::Span<const double> Figures() const = 0;
};

struct EnvironmentOptions {
  // Steps after which an episode is truncated; 0: the environment's own limit.
  uint32_t max_episode_steps = 0;
  // Every array the environment's Python package gives, for `sibyl rollout` and comparisons; default: only those that
  // a policy reads. Environments whose package gives no more than that ignore it.
  bool all_arrays = false;
  // Takes from the system's clock what the Python package takes from it (NetHack names shopkeepers, fills ant holes and
  // prices glass by it), for comparisons; default: from the seed, as Reset promises.
  bool system_clock = false;
};

}  // namespace sibyl
