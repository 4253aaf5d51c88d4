#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace sibyl {

struct EnvironmentBenchmark {
  std::string environment;
  int environments = 1;  // over all threads, at least as many as threads
  int threads = 1;
  absl::Duration time = absl::Seconds(5);
  // Steps after which an episode is truncated; 0: the environment's own limit. With 1, resets are measured.
  uint32_t max_episode_steps = 0;
  // Arrays are written, captions taken and hashed: what an actor needs. Without: games are stepped and nothing is read.
  bool observe = true;
};

struct EnvironmentSpeed {
  uint64_t steps = 0, episodes = 0;
  double wall_seconds = 0;
  double cpu_seconds = 0;            // of all threads
  int64_t memory_bytes_per_env = 0;  // proportional resident memory that they added, up to the end
};

// Plays random actions; each thread plays its share of the environments in turn, writing into one block of
// [environments, observation]. Resets are part of the time. Errors are those of MakeEnvironment and of the game.
absl::StatusOr<EnvironmentSpeed> MeasureEnvironments(const EnvironmentBenchmark& benchmark);

// `sibyl bench env NAME [--envs N] [--threads T] [--seconds S] [--max_episode_steps M]`: a line of JSON. Returns the
// exit status: 0; 2 where an argument cannot be used; 1 where something else fails.
int BenchEnvMain(absl::Span<const std::string> arguments);

}  // namespace sibyl
