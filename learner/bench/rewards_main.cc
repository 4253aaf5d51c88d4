// sibyl-bench-rewards, which `sibyl bench rewards` runs: what captions cost a step, and what it costs that a million of
// them get new scores meanwhile. The caption table alone, without network, games or training.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/log.h"
#include "common/random.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "learner/experience/caption_table.h"

ABSL_FLAG(int, captions, 1'000'000, "Captions that the learner knows.");
ABSL_FLAG(double, seconds, 5, "Time of each of the two measurements.");
ABSL_FLAG(double, budget, 0.1, "Share of a core that giving captions new scores may take.");

namespace sibyl::learner {
namespace {

constexpr int kGroup = 64;        // rows of a step message
constexpr int kBatch = 1024;      // steps of a training batch
constexpr int kPart = 16'384;     // scores in one message of the reward model
constexpr double kSpoken = 0.35;  // share of steps that have a caption, as in NetHack

double Seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Speed {
  double steps_per_second = 0;
  double cpu_seconds_per_million = 0;  // of the thread that steps
  double longest_pause = 0;            // seconds, of one group or batch
};

// What the learner does with the captions of steps: see each, and look up the rewards of a batch.
Speed Step(CaptionTable& table, const std::vector<uint64_t>& ids, double seconds, const std::stop_token& stop) {
  Random random(1);
  // Few captions are seen often, most hardly ever.
  const auto draw = [&]() -> uint64_t {
    if (random.Uniform() >= kSpoken) return 0;
    const double u = random.Uniform();
    return ids[static_cast<size_t>(u * u * u * static_cast<double>(ids.size()))];
  };
  std::vector<uint64_t> drawn(1 << 20);
  for (uint64_t& id : drawn) id = draw();
  std::vector<int32_t> rows(kBatch);
  std::vector<CaptionReward> rewards(kBatch);
  Speed speed;
  const double begin = Seconds(CLOCK_MONOTONIC), cpu = Seconds(CLOCK_THREAD_CPUTIME_ID);
  double now = begin;
  uint64_t steps = 0;
  while (now - begin < seconds && !stop.stop_requested()) {
    for (int at = 0; at < kBatch; at += kGroup) {
      table.See(absl::MakeConstSpan(&drawn[(steps + at) % drawn.size()], kGroup), steps, &rows[at]);
    }
    table.Rewards(rows, steps, rewards.data());
    table.Unpin(rows);
    steps += kBatch;
    const double then = std::exchange(now, Seconds(CLOCK_MONOTONIC));
    speed.longest_pause = std::max(speed.longest_pause, now - then);
  }
  speed.steps_per_second = static_cast<double>(steps) / (now - begin);
  speed.cpu_seconds_per_million = (Seconds(CLOCK_THREAD_CPUTIME_ID) - cpu) / static_cast<double>(steps) * 1e6;
  return speed;
}

std::vector<v1::ScoreUpdate> NewScores(const std::vector<uint64_t>& ids, uint64_t version) {
  std::vector<v1::ScoreUpdate> parts;
  for (size_t begin = 0; begin < ids.size(); begin += kPart) {
    v1::ScoreUpdate& part = parts.emplace_back();
    const size_t end = std::min(ids.size(), begin + kPart);
    part.set_more(end < ids.size());
    part.set_score_version(version);
    part.mutable_transform()->set_deviation(1);
    part.mutable_id()->Assign(ids.begin() + begin, ids.begin() + end);
    for (size_t i = begin; i < end; ++i) part.add_score(static_cast<float>(version % 7));
  }
  return parts;
}

void Measure(int captions, double seconds, double budget, const Program& program) {
  const std::stop_token ended = program.stop();
  CaptionTable table(static_cast<size_t>(captions));
  std::vector<uint64_t> ids(captions);
  std::vector<int32_t> rows(captions);
  const double begin = Seconds(CLOCK_MONOTONIC);
  for (int i = 0; i < captions; ++i) {
    google::protobuf::RepeatedPtrField<v1::CaptionText> texts;
    v1::CaptionText* text = texts.Add();
    text->set_text(absl::StrCat("You see here ", i, " uncursed scrolls labeled NR 9."));
    text->set_id(ids[i] = CaptionId(text->text()));
    table.See({&ids[i], 1}, 0, &rows[i]);
    table.AddTexts(texts);
  }
  const double new_caption = (Seconds(CLOCK_MONOTONIC) - begin) / captions;
  table.Unpin(rows);
  for (const v1::ScoreUpdate& part : NewScores(ids, 1)) table.Apply(part, 0).IgnoreError();

  const Speed before = Step(table, ids, seconds / 2, ended);
  std::atomic<bool> stop = false;
  uint64_t rescored = 0;
  double rescoring_cpu = 0, rescoring_wall = 0;
  std::thread rescorer([&] {
    NameThread("rescorer");
    const double begin = Seconds(CLOCK_MONOTONIC);
    for (uint64_t version = 2; !stop; ++version) {
      for (const v1::ScoreUpdate& part : NewScores(ids, version)) {
        const double cpu = Seconds(CLOCK_THREAD_CPUTIME_ID);
        table.Apply(part, version).IgnoreError();
        const double used = Seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
        rescoring_cpu += used;
        rescored += part.id_size();
        std::this_thread::sleep_for(std::chrono::duration<double>(used * (1 / budget - 1)));
        if (stop) break;
      }
    }
    rescoring_wall = Seconds(CLOCK_MONOTONIC) - begin;
  });
  const Speed during = Step(table, ids, seconds, ended);
  stop = true;
  rescorer.join();
  const Speed after = Step(table, ids, seconds / 2, ended);
  if (ended.stop_requested()) return;  // a measurement that was cut short says nothing
  const double alone = (before.steps_per_second + after.steps_per_second) / 2;
  const nlohmann::ordered_json line = {
      {"bench", "rewards"},
      {"captions", captions},
      {"steps_per_second", during.steps_per_second},
      {"limit_steps_per_second", alone},
      {"share_of_limit", during.steps_per_second / alone},
      {"cpu_seconds_per_million_steps", during.cpu_seconds_per_million},
      {"longest_pause_seconds", during.longest_pause},
      {"longest_pause_seconds_alone", std::max(before.longest_pause, after.longest_pause)},
      {"rescored_captions_per_second", static_cast<double>(rescored) / rescoring_wall},
      {"rescoring_core_share", rescoring_cpu / rescoring_wall},
      {"cpu_seconds", rescoring_cpu},
      {"new_caption_nanoseconds", new_caption * 1e9},
      {"memory_bytes_per_caption", static_cast<double>(table.bytes()) / captions},
  };
  std::printf("%s\n", line.dump().c_str());
}

absl::Status Run(Program& program) {
  const int captions = absl::GetFlag(FLAGS_captions);
  const double seconds = absl::GetFlag(FLAGS_seconds), budget = absl::GetFlag(FLAGS_budget);
  if (captions < 1 || captions > 100'000'000 || !(seconds > 0 && seconds <= 100'000) || !(budget > 0 && budget <= 1)) {
    return UsageError(absl::InvalidArgumentError(
        absl::StrCat("--captions must be from 1 to 100000000, --seconds above 0 and at most 100000, --budget above 0 "
                     "and at most 1; they are ",
                     captions, ", ", seconds, " and ", budget)));
  }
  Measure(captions, seconds, budget, program);
  return absl::OkStatus();
}

}  // namespace
}  // namespace sibyl::learner

int main(int argc, char** argv) {
  return sibyl::RunMain(
      argc, argv,
      {"bench-rewards", "What captions cost: sibyl bench rewards [--captions=N] [--seconds=S] [--budget=SHARE]"},
      sibyl::learner::Run);
}
