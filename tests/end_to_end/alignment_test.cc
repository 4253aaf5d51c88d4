// What reaches training, through the real programs with actors killed meanwhile.

#include "environments/debug/alignment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/checkpoints.h"
#include "common/random.h"
#include "common/runtime/ending.h"
#include "environments/registry.h"
#include "policy/torch.h"
#include "policy/weights.h"
#include "tests/process.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

// With actors of either kind; a test's parameter is the actors' programs, in turn.
class AlignmentTest : public testing::TestWithParam<std::vector<std::string>> {
 protected:
  AlignmentTest() {
    std::string folder = testing::TempDir() + "/alignment.XXXXXX";
    folder_ = mkdtemp(folder.data());
    fs::create_directories(folder_ + "/batches");
  }
  ~AlignmentTest() override { fs::remove_all(folder_); }

  // Trains to the end under `config`, killing an actor each time another `kills`-th of the batches has been trained on.
  void Train(const std::string& config, int actors, int kills, int batches) {
    std::ofstream(folder_ + "/config.textproto") << config;
    Process learner({SIBYL_BIN_DIR "/sibyl-learner", "--config=" + folder_ + "/config.textproto",
                     "--run_dir=" + folder_, "--record_batches=" + folder_ + "/batches", "--listen=127.0.0.1:0",
                     "--metrics_listen=127.0.0.1:0"});
    const int port = learner.NumberAfter("(port ");
    ASSERT_GT(port, 0) << learner.log();
    std::vector<std::unique_ptr<Process>> playing;
    const auto start = [&](int actor) {
      return std::make_unique<Process>(
          std::vector<std::string>{absl::StrCat(SIBYL_BIN_DIR "/", GetParam()[actor % GetParam().size()]),
                                   absl::StrCat("--learner=127.0.0.1:", port), "--metrics_listen=127.0.0.1:0"});
    };
    for (int i = 0; i < actors; ++i) playing.push_back(start(i));
    for (int killed = 0; killed < kills; ++killed) {
      const int until = batches * (killed + 1) / (kills + 2);
      ASSERT_TRUE(Eventually([&] { return Batches().size() >= static_cast<size_t>(until); })) << learner.log();
      auto& victim = playing[killed % actors];
      victim->Signal(SIGKILL);
      EXPECT_EQ(victim->Wait(), 1000 + SIGKILL);
      victim = start(killed % actors);
    }
    EXPECT_EQ(learner.Wait(), 0) << learner.log();
    for (auto& actor : playing) {
      actor->Signal(SIGTERM);
      // One that was started last may end before it can handle the signal.
      EXPECT_THAT(actor->Wait(), testing::AnyOf(kExitStopped, 1000 + SIGTERM)) << actor->log();
    }
    EXPECT_EQ(Batches().size(), static_cast<size_t>(batches));
  }

  std::vector<std::string> Batches() const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(folder_ + "/batches")) {
      if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  static std::map<std::string, torch::Tensor> Read(const std::string& path) {
    const auto file = ReadTensors(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return {file->tensors.begin(), file->tensors.end()};
  }

  std::string folder_;
};

// How often step `step`'s caption has occurred in its episode up to then.
int64_t CountOf(uint64_t seed, int step) {
  const std::string caption = AlignmentCaption(seed, step);
  int64_t count = 0;
  for (int k = 0; k <= step && !caption.empty(); ++k) count += AlignmentCaption(seed, k) == caption;
  return count;
}

TEST_P(AlignmentTest, EveryUnrollIsWhatOneEnvironmentSaidInOrderThoughActorsAreKilled) {
  constexpr int kUnroll = 8, kUnrolls = 8, kBatches = 120;
  // Without staggering, episodes end where AlignmentLength says.
  Train(absl::StrCat("environment { name: 'debug/Alignment' } seed: 7 total_steps: ", kUnroll * kUnrolls * kBatches, R"(
          actor { processes: 2 environments: 8 groups: 2 stagger: false }
          learner { unroll_length: 8 batch_size: 64 checkpoint_seconds: 3600 }
          reward { intrinsic_coefficient: 0 extrinsic_coefficient: 0.5 extrinsic_clip: 0.8 })"),
        /*actors=*/2, /*kills=*/4, kBatches);
  std::set<std::tuple<int64_t, int64_t, int64_t, int64_t>> played;  // slot, environment, episode, step
  std::set<int64_t> seeds_of_truncated, seeds_of_terminated;
  for (const std::string& path : Batches()) {
    auto batch = Read(path);
    const auto at = [&](const char* name, int64_t t, int64_t b) { return batch.at(name).index({t, b}).item(); };
    std::set<std::pair<int64_t, int64_t>> finals;
    for (int64_t f = 0; f < batch.at("final_step").size(0); ++f) {
      const int64_t t = batch.at("final_step")[f].item<int64_t>(), b = batch.at("final_unroll")[f].item<int64_t>();
      finals.emplace(t, b);
      EXPECT_EQ(batch.at("final_observation/seed")[f].item<int64_t>(), at("observation/seed", t, b).toLong());
      EXPECT_EQ(batch.at("final_observation/step")[f].item<int32_t>(), at("observation/step", t, b).toInt() + 1);
      EXPECT_EQ(batch.at("final_observation/last")[f].item<int32_t>(), at("action", t, b).toLong());
    }
    for (int64_t b = 0; b < kUnrolls; ++b) {
      const int64_t slot = batch.at("slot")[b].item<int64_t>(),
                    environment = batch.at("environment")[b].item<int64_t>();
      ASSERT_LT(slot, 2);
      ASSERT_LT(environment, 8);
      for (int64_t t = 0; t <= kUnroll; ++t) {
        const int64_t episode = at("episode", t, b).toLong();
        const uint64_t seed = static_cast<uint64_t>(at("observation/seed", t, b).toLong());
        const int step = at("observation/step", t, b).toInt();
        ASSERT_EQ(seed, EpisodeSeed(7, slot, environment, episode));
        ASSERT_EQ(at("first", t, b).toBool(), step == 0);
        if (step == 0) {
          EXPECT_EQ(at("observation/last", t, b).toInt(), -1);
        } else if (t > 0) {
          EXPECT_EQ(step, at("observation/step", t - 1, b).toInt() + 1);
          EXPECT_EQ(at("observation/last", t, b).toInt(), at("action", t - 1, b).toLong());
          EXPECT_EQ(episode, at("episode", t - 1, b).toLong());
        }
        EXPECT_EQ(static_cast<uint64_t>(at("seen_caption", t, b).toLong()), CaptionId(AlignmentCaption(seed, step)));
        EXPECT_EQ(at("seen_count", t, b).toLong(), CountOf(seed, step));
        if (t == kUnroll) break;

        ASSERT_TRUE(played.emplace(slot, environment, episode, step).second)
            << "slot " << slot << " environment " << environment << " episode " << episode << " step " << step;
        const float reward = AlignmentReward(seed, step + 1);
        EXPECT_EQ(at("extrinsic_reward", t, b).toFloat(), reward);
        EXPECT_FLOAT_EQ(at("reward", t, b).toFloat(), 0.5f * std::min(reward, 0.8f));
        EXPECT_EQ(static_cast<uint64_t>(at("paid_caption", t, b).toLong()),
                  CaptionId(AlignmentCaption(seed, step + 1)));
        EXPECT_EQ(at("paid_count", t, b).toLong(), CountOf(seed, step + 1));
        const bool ends = step + 1 == AlignmentLength(seed);
        EXPECT_EQ(at("terminated", t, b).toBool(), ends && seed % 2 == 1);
        EXPECT_EQ(at("truncated", t, b).toBool(), ends && seed % 2 == 0);
        EXPECT_EQ(at("first", t + 1, b).toBool(), ends);
        EXPECT_EQ(finals.count({t, b}), ends && seed % 2 == 0 ? 1u : 0u);
        if (ends) (seed % 2 == 1 ? seeds_of_terminated : seeds_of_truncated).insert(static_cast<int64_t>(seed));
      }
    }
  }
  EXPECT_EQ(played.size(), size_t{kUnroll * kUnrolls * kBatches});
  EXPECT_GT(seeds_of_terminated.size(), 20u);
  EXPECT_GT(seeds_of_truncated.size(), 20u);
}

// Every environment starts its first unroll at the same step, so that a group needs all its next ones at once; and two
// actors need them at the same time.
TEST_P(AlignmentTest, AGroupThatIsLargerThanTwoBatchesNeverWaitsForEver) {
  Train(R"(environment { name: 'debug/Alignment' } seed: 5 total_steps: 4800
           actor { processes: 2 environments: 32 groups: 2 }
           learner { unroll_length: 8 batch_size: 16 checkpoint_seconds: 3600 }
           reward { intrinsic_coefficient: 0 })",
        /*actors=*/2, /*kills=*/0, /*batches=*/300);
  std::map<int64_t, int> unrolls;  // by slot
  for (const std::string& path : Batches()) {
    const torch::Tensor slot = Read(path).at("slot");
    for (int64_t b = 0; b < slot.size(0); ++b) ++unrolls[slot[b].item<int64_t>()];
  }
  EXPECT_GE(unrolls[0], 64);
  EXPECT_GE(unrolls[1], 64);
}

// 12 unrolls end at one step, a batch is 8, and there is room for not one more than both need.
TEST_P(AlignmentTest, AGroupAndABatchOfWhichNeitherDividesTheOtherNeverWaitForEver) {
  Train(R"(environment { name: 'debug/Alignment' } seed: 6 total_steps: 19200
           actor { processes: 2 environments: 24 groups: 2 }
           learner { unroll_length: 8 batch_size: 64 checkpoint_seconds: 3600 }
           reward { intrinsic_coefficient: 0 })",
        /*actors=*/2, /*kills=*/1, /*batches=*/300);
}

TEST_P(AlignmentTest, ThePolicyRecomputedFromTheStoredStateGivesEveryStoredLogProbability) {
  constexpr int kBatches = 40;
  Train(R"(environment { name: 'minigrid/DoorKey-5x5' max_episode_steps: 21 } seed: 3 total_steps: 20480
           actor { processes: 2 environments: 8 groups: 2 }
           learner { unroll_length: 16 batch_size: 512 learning_rate: 0 checkpoint_seconds: 3600 }
           reward { intrinsic_coefficient: 0 })",
        /*actors=*/2, /*kills=*/2, kBatches);
  const auto spec = FindEnvironmentSpec("minigrid/DoorKey-5x5");
  ASSERT_TRUE(spec.ok());
  auto policy = MakePolicy({}, *spec);
  ASSERT_TRUE(policy.ok());
  ASSERT_GT((*policy)->state_size(), 0);
  // The weights never change, as the learning rate is 0; the statistics of the network's inputs follow each batch. So
  // the policy of version v is the first one with the statistics of v batches.
  const auto checkpoint = ReadCheckpoint(folder_, CheckpointName(0));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_TRUE(LoadPolicy(checkpoint->weights, **policy).ok());
  torch::NoGradGuard no_grad;
  torch::set_num_threads(1);
  int64_t resets = 0, warm_states = 0, checked = 0, version = 0;
  std::map<std::string, torch::Tensor> before;  // what the policy of the version before held
  for (const std::string& path : Batches()) {
    auto batch = Read(path);
    Observations observations;
    for (const auto& array : spec->observation()) observations.push_back(batch.at("observation/" + array.name()));
    const int64_t T = batch.at("action").size(0), B = batch.at("action").size(1);
    const auto check = [&](int64_t of_version) {
      // Unrolls of one version alone: the recurrent state of the others is of two policies.
      const torch::Tensor columns = (batch.at("policy_version") == of_version).all(0).nonzero().squeeze(1);
      const PolicyOutput output = (*policy)->Forward(observations, batch.at("first"), batch.at("state"));
      const torch::Tensor log_prob =
          output.action.slice(0, 0, T).log_softmax(-1).gather(-1, batch.at("action")).squeeze(-1);
      const auto difference = [&](const torch::Tensor& ours, const char* name) {
        const torch::Tensor theirs = batch.at(name).reshape(ours.sizes());
        return columns.numel() == 0 ? 0.0f : (ours - theirs).index_select(1, columns).abs().max().item<float>();
      };
      EXPECT_LT(difference(log_prob, "behaviour_log_prob"), 1e-4f) << path;
      EXPECT_LT(difference(output.value.slice(0, 0, T), "behaviour_value"), 1e-4f) << path;
      checked += columns.numel();
    };
    // Actors are at most one update ahead of training.
    if (version > 0) {
      const auto now = (*policy)->named_parameters();
      std::vector<torch::Tensor> kept;
      for (const auto& parameter : now) kept.push_back(parameter.value().clone());
      for (const auto& parameter : now) {
        if (const auto it = before.find(parameter.key()); it != before.end()) parameter.value().copy_(it->second);
      }
      check(version - 1);
      size_t i = 0;
      for (const auto& parameter : now) parameter.value().copy_(kept[i++]);
    }
    check(version);
    resets += batch.at("first").slice(0, 1, T).sum().item<int64_t>();
    warm_states += (batch.at("state").abs().sum(1) > 0).sum().item<int64_t>();

    before.clear();
    for (const auto& parameter : (*policy)->named_parameters()) before[parameter.key()] = parameter.value().clone();
    Observations acted_on;
    for (const torch::Tensor& array : observations) acted_on.push_back(array.slice(0, 0, T));
    const torch::Tensor numbers = (*policy)->InputNumbers(acted_on);
    (*policy)->input_statistics()->Follow(numbers.mean(0), numbers.square().mean(0), static_cast<double>(T * B));
    ++version;
  }
  EXPECT_GT(checked, 100);
  EXPECT_GT(resets, 100);
  EXPECT_GT(warm_states, 100);
}

using Programs = std::vector<std::string>;
INSTANTIATE_TEST_SUITE_P(Central, AlignmentTest, testing::Values(Programs{"sibyl-actor"}));
INSTANTIATE_TEST_SUITE_P(Local, AlignmentTest, testing::Values(Programs{"sibyl-actor-local"}));
INSTANTIATE_TEST_SUITE_P(Mixed, AlignmentTest, testing::Values(Programs{"sibyl-actor", "sibyl-actor-local"}));

}  // namespace
}  // namespace sibyl
