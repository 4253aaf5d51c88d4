// Steps per second of nethack/Score with random actions: one thread plays N games in turn. Not run by ctest.
//
//   build/release/bin/nethack_benchmark

#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "common/random.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl {
namespace {

struct Games {
  Games(int count, bool all_arrays) : memory(count), pointers(count) {
    for (int i = 0; i < count; ++i) {
      auto made = MakeEnvironment("nethack/Score", {.all_arrays = all_arrays});
      if (!made.ok()) {
        error = made.status().ToString();
        return;
      }
      games.push_back(std::move(made).value());
      memory[i].resize(ObservationBytes(games[i]->spec()));
      size_t offset = 0;
      for (const v1::TensorSpec& array : games[i]->spec().observation()) {
        pointers[i].push_back(memory[i].data() + offset);
        offset += Bytes(array);
      }
      Reset(i);
    }
  }
  void Reset(int i) {
    const absl::Status status = games[i]->Reset(seed++, pointers[i]);
    if (!status.ok()) error = status.ToString();
  }
  std::vector<std::unique_ptr<Environment>> games;
  std::vector<std::string> memory;
  std::vector<std::vector<void*>> pointers;
  uint64_t seed = 0;
  std::string error;
};

// Arguments: games; 1: every array, 0: those of a policy.
void Step(benchmark::State& state) {
  Games games(static_cast<int>(state.range(0)), state.range(1) != 0);
  Random random(1);
  int64_t steps = 0;
  while (games.error.empty() && state.KeepRunningBatch(static_cast<int64_t>(games.games.size()))) {
    for (size_t i = 0; i < games.games.size(); ++i) {
      const auto result = games.games[i]->Step(static_cast<int>(random.Below(23)), games.pointers[i]);
      if (result->terminated || result->truncated) games.Reset(static_cast<int>(i));
    }
    steps += static_cast<int64_t>(games.games.size());
  }
  if (!games.error.empty()) state.SkipWithError(games.error.c_str());
  state.SetItemsProcessed(steps);  // items are steps
}
BENCHMARK(Step)->ArgNames({"games", "all"})->ArgsProduct({{1, 32, 128}, {0, 1}})->MinTime(4);

void Reset(benchmark::State& state) {
  Games games(1, false);
  while (games.error.empty() && state.KeepRunning()) games.Reset(0);
  if (!games.error.empty()) state.SkipWithError(games.error.c_str());
}
BENCHMARK(Reset)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sibyl
