// Steps per second of MiniGrid with random actions, resets, views and captions included: one thread. Not run by ctest.
//
//   build/release/bin/minigrid_benchmark

#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "common/random.h"
#include "environments/minigrid/family.h"

namespace sibyl::minigrid {
namespace {

void Step(benchmark::State& state, const std::string& name) {
  const std::unique_ptr<Environment> environment = std::move(Family().make(name, {})).value();
  std::vector<uint8_t> image(7 * 7 * 3);
  int64_t direction = 0;
  void* const buffers[] = {image.data(), &direction};
  // Turning, walking and doing things, so that there are captions.
  constexpr int kActions[] = {0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 5, 5, 6};
  Random random(1);
  uint64_t seed = 0;
  size_t captions = 0, captioned = 0;
  (void)environment->Reset(seed, buffers);
  for (auto _ : state) {
    const auto result = environment->Step(kActions[random.Next() >> 60], buffers);
    const absl::string_view caption = environment->Caption();
    captions += caption.size();
    captioned += !caption.empty();
    benchmark::DoNotOptimize(captions);
    benchmark::ClobberMemory();
    if (result->terminated || result->truncated) (void)environment->Reset(++seed, buffers);
  }
  state.SetItemsProcessed(state.iterations());  // items are steps
  state.counters["captions"] = benchmark::Counter(static_cast<double>(captioned), benchmark::Counter::kAvgIterations);
  state.counters["episodes"] = static_cast<double>(seed);
}

void Reset(benchmark::State& state, const std::string& name) {
  const std::unique_ptr<Environment> environment = std::move(Family().make(name, {})).value();
  std::vector<uint8_t> image(7 * 7 * 3);
  int64_t direction = 0;
  void* const buffers[] = {image.data(), &direction};
  uint64_t seed = 0;
  for (auto _ : state) (void)environment->Reset(++seed, buffers);
}

void Register() {
  for (const std::string& name : Family().names()) {
    benchmark::RegisterBenchmark(("Step/" + name).c_str(), [name](benchmark::State& state) { Step(state, name); });
  }
  for (const std::string& name : Family().names()) {
    benchmark::RegisterBenchmark(("Reset/" + name).c_str(), [name](benchmark::State& state) { Reset(state, name); });
  }
}

}  // namespace
}  // namespace sibyl::minigrid

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  sibyl::minigrid::Register();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
