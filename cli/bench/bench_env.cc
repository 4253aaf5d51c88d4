#include "cli/bench/bench_env.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/arguments.h"
#include "common/action_spec.h"
#include "common/caption.h"
#include "common/log.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl {
namespace {

constexpr size_t kActions = 1 << 16;  // drawn beforehand, so that drawing costs nothing

double ProcessCpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Resident memory, a page that is mapped n times counted as a share of 1/n each: games share the library's text.
int64_t ProportionalMemoryBytes() {
  const std::string text = ReadFile("/proc/self/smaps_rollup").value_or("");
  const size_t at = text.find("\nPss:");
  return at == std::string::npos ? 0 : std::atoll(text.c_str() + at + 5) * 1024;
}

// The environments of one thread.
struct Share {
  std::vector<std::unique_ptr<Environment>> environments;
  std::vector<std::vector<void*>> arrays;  // where each one writes
  uint64_t next_seed = 0;
  uint64_t steps = 0, episodes = 0;
  uint64_t captions = 0;  // folded ids, so that they are really computed
  absl::Status status;
};

absl::Status Play(Share& share, const std::string& actions, size_t action_bytes, bool observe,
                  const std::atomic<bool>& stop) {
  size_t next_action = 0;
  // At least once, however late the thread comes to run.
  do {
    for (size_t i = 0; i < share.environments.size(); ++i) {
      Environment& environment = *share.environments[i];
      SIBYL_ASSIGN_OR_RETURN(
          const StepResult result,
          environment.Step(ActionView(&actions[next_action++ % kActions * action_bytes]), share.arrays[i]));
      if (observe) share.captions ^= CaptionId(environment.Caption());
      if (!result.terminated && !result.truncated) continue;
      ++share.episodes;
      SIBYL_RETURN_IF_ERROR(environment.Reset(share.next_seed++, share.arrays[i]));
    }
    share.steps += share.environments.size();
  } while (!stop.load(std::memory_order_relaxed));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EnvironmentSpeed> MeasureEnvironments(const EnvironmentBenchmark& benchmark) {
  EnvironmentOptions options;
  options.max_episode_steps = benchmark.max_episode_steps;
  SIBYL_ASSIGN_OR_RETURN(const v1::EnvironmentSpec spec, FindEnvironmentSpec(benchmark.environment, options));
  const size_t bytes = ObservationBytes(spec);
  const int64_t memory_before = ProportionalMemoryBytes();
  std::string block(bytes * benchmark.environments, '\0');
  std::vector<Share> shares(benchmark.threads);
  for (int i = 0; i < benchmark.environments; ++i) {
    Share& share = shares[i % benchmark.threads];
    SIBYL_ASSIGN_OR_RETURN(auto environment, MakeEnvironment(benchmark.environment, options));
    std::vector<void*> arrays;
    char* at = block.data() + bytes * i;
    for (const v1::TensorSpec& array : spec.observation()) {
      arrays.push_back(benchmark.observe ? at : nullptr);
      at += Bytes(array);
    }
    SIBYL_RETURN_IF_ERROR(environment->Reset(i, arrays));
    share.environments.push_back(std::move(environment));
    share.arrays.push_back(std::move(arrays));
  }
  const size_t action_bytes = ActionBytes(spec.action());
  std::string actions(kActions * action_bytes, '\0');
  Random random(1);
  for (size_t i = 0; i < kActions; ++i) RandomAction(spec.action(), random, &actions[i * action_bytes]);

  EnvironmentSpeed speed;
  std::atomic<bool> stop = false;
  const double cpu_before = ProcessCpuSeconds();
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < benchmark.threads; ++t) {
    // No two threads' episodes have the same seeds.
    shares[t].next_seed = (static_cast<uint64_t>(t) + 1) << 24;
    threads.emplace_back([&, t] {
      NameThread("bench");
      shares[t].status = Play(shares[t], actions, action_bytes, benchmark.observe, stop);
    });
  }
  std::this_thread::sleep_for(absl::ToChronoNanoseconds(benchmark.time));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  speed.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  speed.cpu_seconds = ProcessCpuSeconds() - cpu_before;
  speed.memory_bytes_per_env = (ProportionalMemoryBytes() - memory_before) / benchmark.environments;
  for (const Share& share : shares) {
    SIBYL_RETURN_IF_ERROR(share.status);
    speed.steps += share.steps;
    speed.episodes += share.episodes;
  }
  return speed;
}

int BenchEnvMain(absl::Span<const std::string> arguments) {
  const auto refuse = [](const absl::Status& status) {
    std::fprintf(stderr, "sibyl bench env: %s\n", std::string(status.message()).c_str());
    return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? 2 : 1;
  };
  const std::vector<cli::Flag> flags = {{"envs", "N"}, {"threads", "T"}, {"seconds", "S"}, {"max_episode_steps", "M"}};
  const auto parsed = cli::ParseArguments("sibyl bench env", flags, arguments);
  if (!parsed.ok()) return refuse(parsed.status());
  EnvironmentBenchmark benchmark;
  if (parsed->positional.size() != 1) {
    return refuse(absl::InvalidArgumentError("name one environment, e.g. sibyl bench env nethack/Score --envs 32"));
  }
  benchmark.environment = parsed->positional[0];
  const auto number = [&](const char* name, int otherwise, int* value, int least = 1) -> absl::Status {
    const std::string text = parsed->Value(name, absl::StrCat(otherwise));
    if (absl::SimpleAtoi(text, value) && *value >= least && *value <= 100'000) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--", name, " is `", text, "`, must be a number from ", least, " to 100000"));
  };
  int seconds = 0, max_episode_steps = 0;
  for (const absl::Status& status :
       {number("threads", 1, &benchmark.threads), number("envs", benchmark.threads, &benchmark.environments),
        number("seconds", 5, &seconds), number("max_episode_steps", 0, &max_episode_steps, 0)}) {
    if (!status.ok()) return refuse(status);
  }
  if (benchmark.environments < benchmark.threads) {
    return refuse(absl::InvalidArgumentError(absl::StrCat(
        "--envs is ", benchmark.environments, ", must be at least --threads, which is ", benchmark.threads)));
  }
  benchmark.time = absl::Seconds(seconds);
  benchmark.max_episode_steps = static_cast<uint32_t>(max_episode_steps);

  // The limit: one thread over one environment that nobody looks at. Measured before and after, as machines drift.
  const EnvironmentBenchmark bare = {benchmark.environment, 1, 1, benchmark.time / 4, false};
  const auto before = MeasureEnvironments(bare);
  if (!before.ok()) return refuse(before.status());
  const auto speed = MeasureEnvironments(benchmark);
  if (!speed.ok()) return refuse(speed.status());
  const auto after = MeasureEnvironments(bare);
  if (!after.ok()) return refuse(after.status());

  const double rate = static_cast<double>(speed->steps) / speed->wall_seconds;
  const double limit = static_cast<double>(before->steps + after->steps) / (before->wall_seconds + after->wall_seconds);
  nlohmann::ordered_json line = {
      {"bench", "env"},
      {"environment", benchmark.environment},
      {"envs", benchmark.environments},
      {"threads", benchmark.threads},
      {"steps_per_second", rate},
      {"cpu_seconds", speed->cpu_seconds},
      {"steps_per_cpu_second", static_cast<double>(speed->steps) / speed->cpu_seconds},
      {"memory_bytes_per_env", speed->memory_bytes_per_env},
      {"limit_steps_per_second", limit * benchmark.threads},
      {"share_of_limit", rate / (limit * benchmark.threads)},
      {"steps", speed->steps},
      {"episodes", speed->episodes},
      {"wall_seconds", speed->wall_seconds},
  };
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace sibyl
