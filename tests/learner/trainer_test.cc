#include "learner/training/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "cli/ports.h"
#include "common/action_spec.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "common/tensor_spec.h"
#include "learner/training/minibatches.h"
#include "policy/mlp.h"
#include "policy/torch.h"
#include "policy/value_heads.h"
#include "tests/learner/literal.h"
#include "tests/policy/random_observations.h"

namespace sibyl::learner {
namespace {

using ::testing::HasSubstr;

v1::LearnerConfig Config() {
  v1::LearnerConfig config;
  config.set_epochs(1);
  config.set_minibatches(1);
  config.set_learning_rate(1e-3);
  config.set_final_learning_rate(1e-3);
  config.set_adam_epsilon(1e-6);
  config.set_gamma(0.9);
  config.set_intrinsic_gamma(0.8);
  config.set_vtrace_rho(1);
  config.set_vtrace_c(1);
  config.set_ppo_clip(0.1);
  config.set_min_advantage_deviation(1e-3);
  config.set_value_clip(1);
  config.set_value_coefficient(0.5);
  config.set_entropy_coefficient(0.003);
  config.set_final_entropy_coefficient(0.003);
  config.set_max_gradient_norm(4);
  return config;
}

std::shared_ptr<Policy> GruPolicy(uint64_t seed, v1::PolicyConfig config = {}) {
  at::set_num_threads(1);  // batches this small only wait for more
  torch::manual_seed(seed);
  if (config.kind() == v1::POLICY_KIND_UNSPECIFIED) config.set_kind(v1::POLICY_KIND_MINIGRID_CONV_GRU);
  return *MakePolicy(config, MinigridSpec());
}

// Every kind of value.
std::vector<v1::PolicyConfig> ValueKinds() {
  std::vector<v1::PolicyConfig> kinds(5);
  kinds[1].set_value_heads(v1::VALUE_HEADS_SEPARATE);
  kinds[2].set_normalise_returns(true);
  kinds[3].set_value_bins(21);
  kinds[4].set_value_heads(v1::VALUE_HEADS_SEPARATE);
  kinds[4].set_normalise_returns(true);
  kinds[4].set_value_bins(21);
  for (v1::PolicyConfig& kind : kinds) {
    kind.set_value_low(-3);
    kind.set_value_high(4);
  }
  return kinds;
}

// A batch as the learner makes them: what follows an end starts an episode, truncated steps have a final observation.
TrainingBatch RandomBatch(uint64_t seed, int64_t T = 8, int64_t B = 6, int64_t state_size = 128, int64_t V = 1) {
  torch::manual_seed(seed);
  const v1::EnvironmentSpec spec = MinigridSpec();
  TrainingBatch batch;
  batch.observation = RandomObservations(spec, T + 1, B);
  batch.state = torch::randn({B, state_size}) * 0.5;
  batch.action = torch::randint(AllChoices(spec.action()), {T, B, 1});
  batch.behaviour_log_prob = torch::randn({T, B}) * 0.2 - 2;
  batch.behaviour_value = torch::randn({T, B, V});
  batch.reward = torch::randn({T, B, V});
  batch.terminated = RandomFlags(T, B, 6);
  batch.truncated = RandomFlags(T, B, 4).logical_and(batch.terminated.logical_not());
  batch.first = torch::cat({RandomFlags(1, B, 3), batch.terminated.logical_or(batch.truncated)});
  batch.valid = RandomFlags(T, B, 5).logical_not();
  const torch::Tensor ends = batch.truncated.nonzero();
  batch.final_step = ends.select(1, 0).contiguous();
  batch.final_unroll = ends.select(1, 1).contiguous();
  for (const torch::Tensor& array : RandomObservations(spec, 1, ends.size(0)))
    batch.final_observation.push_back(array[0]);
  return batch;
}

std::vector<torch::Tensor> Weights(const Trainer& trainer) {
  std::vector<torch::Tensor> weights;
  for (const torch::Tensor& parameter : trainer.policy().parameters()) weights.push_back(parameter.detach().clone());
  return weights;
}

void ExpectEqual(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << "tensor " << i;
}

bool AnyDiffers(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!torch::equal(a[i], b[i])) return true;
  }
  return false;
}

std::string TempFile(const std::string& name) {
  return (std::filesystem::path(::testing::TempDir()) / ("trainer_test_" + name)).string();
}

TEST(Trainer, SameBatchesGiveTheSameWeightsBitForBit) {
  Trainer a(Config(), GruPolicy(1)), b(Config(), GruPolicy(1));
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(a.Update(RandomBatch(i)).ok());
    ASSERT_TRUE(b.Update(RandomBatch(i)).ok());
  }
  ExpectEqual(Weights(a), Weights(b));
}

TEST(Trainer, SharedOutOverThreadsAnUpdateIsTheSame) {
  v1::LearnerConfig shared = Config();
  for (const uint32_t threads : {2u, 4u, 9u}) {  // the last: more than there are unrolls
    shared.set_training_threads(threads);
    Trainer alone(Config(), GruPolicy(1)), team(shared, GruPolicy(1)), again(shared, GruPolicy(1));
    for (uint64_t i = 0; i < 4; ++i) {
      const auto expected = alone.Update(RandomBatch(i)), stats = team.Update(RandomBatch(i));
      ASSERT_TRUE(expected.ok() && stats.ok());
      EXPECT_NEAR(stats->policy_loss, expected->policy_loss, 1e-5);
      EXPECT_NEAR(stats->value_loss, expected->value_loss, 1e-5);
      EXPECT_NEAR(stats->gradient_norm, expected->gradient_norm, 1e-4 * expected->gradient_norm);
      ASSERT_TRUE(again.Update(RandomBatch(i)).ok());
    }
    const auto weights = Weights(team), expected = Weights(alone);
    for (size_t i = 0; i < weights.size(); ++i) {
      // A step of Adam is as large for a gradient that is nearly nothing, whose sign may depend on the order of sums.
      EXPECT_LT((weights[i] - expected[i]).abs().mean().item<double>(), 1e-5) << "tensor " << i;
    }
    ExpectEqual(Weights(again), weights);
  }
}

// The unrolls [begin, end) of a batch.
TrainingBatch Part(const TrainingBatch& whole, int64_t begin, int64_t end) {
  TrainingBatch part = whole;
  for (torch::Tensor& array : part.observation) array = array.slice(1, begin, end);
  for (const auto member : {&TrainingBatch::first, &TrainingBatch::action, &TrainingBatch::behaviour_log_prob,
                            &TrainingBatch::behaviour_value, &TrainingBatch::reward, &TrainingBatch::terminated,
                            &TrainingBatch::truncated, &TrainingBatch::valid}) {
    part.*member = (part.*member).slice(1, begin, end);
  }
  part.state = part.state.slice(0, begin, end);
  const torch::Tensor mine = whole.final_unroll.ge(begin).logical_and(whole.final_unroll.lt(end)).nonzero().squeeze(1);
  part.final_step = whole.final_step.index_select(0, mine);
  part.final_unroll = whole.final_unroll.index_select(0, mine) - begin;
  for (torch::Tensor& array : part.final_observation) array = array.index_select(0, mine);
  return part;
}

// What is to be found in each unroll of a split batch: the unroll that it was, and all of it.
TEST(Minibatches, HoldEveryUnrollOnceAndWhole) {
  const TrainingBatch whole = RandomBatch(3, 8, 6);
  for (const int parts : {1, 2, 3, 6}) {
    const std::vector<TrainingBatch> split = Split(whole, parts, 5);
    ASSERT_EQ(static_cast<int>(split.size()), parts);
    std::set<int64_t> found;
    int64_t finals = 0;
    for (const TrainingBatch& part : split) {
      ASSERT_EQ(part.reward.size(1), 6 / parts);
      for (int64_t b = 0; b < part.reward.size(1); ++b) {
        int64_t was = 0;
        while (!torch::equal(whole.reward.select(1, was), part.reward.select(1, b))) ++was;
        EXPECT_TRUE(found.insert(was).second);
        const TrainingBatch expected = Part(whole, was, was + 1), unroll = Part(part, b, b + 1);
        for (const auto member :
             {&TrainingBatch::first, &TrainingBatch::action, &TrainingBatch::behaviour_log_prob,
              &TrainingBatch::behaviour_value, &TrainingBatch::terminated, &TrainingBatch::truncated,
              &TrainingBatch::valid, &TrainingBatch::state, &TrainingBatch::final_step, &TrainingBatch::final_unroll}) {
          EXPECT_TRUE(torch::equal(expected.*member, unroll.*member));
        }
        for (size_t i = 0; i < expected.observation.size(); ++i) {
          EXPECT_TRUE(torch::equal(expected.observation[i], unroll.observation[i]));
          EXPECT_TRUE(torch::equal(expected.final_observation[i], unroll.final_observation[i]));
        }
        finals += unroll.final_step.size(0);
      }
    }
    EXPECT_EQ(found.size(), 6u);
    EXPECT_EQ(finals, whole.final_step.size(0));
  }
  EXPECT_FALSE(torch::equal(Split(whole, 1, 5)[0].reward, Split(whole, 1, 6)[0].reward)) << "another seed";
}

// Sets the proximal policy's log-probabilities to those of `policy`.
void MeetFirst(Policy& policy, TrainingBatch* batch) {
  torch::NoGradGuard no_grad;
  const torch::Tensor logits = policy.Forward(batch->observation, batch->first, batch->state).action.slice(0, 0, -1);
  batch->proximal_log_prob = logits.log_softmax(-1).gather(-1, batch->action).squeeze(-1);
}

TEST(Trainer, AStepOnEachMinibatchInTurn) {
  v1::LearnerConfig config = Config();
  config.set_epochs(2);
  config.set_minibatches(3);
  const auto policy = GruPolicy(1);
  Trainer trainer(config, GruPolicy(1)), again(config, GruPolicy(1)), by_hand(Config(), policy);
  const TrainingBatch batch = RandomBatch(1);
  const auto stats = trainer.Update(batch);
  ASSERT_TRUE(stats.ok() && again.Update(batch).ok());
  EXPECT_EQ(trainer.policy_version(), 6u);
  double value_loss = 0;
  std::vector<TrainingBatch> parts = Split(batch, 3, by_hand.policy_version());
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (TrainingBatch& part : parts) {
      if (epoch == 0) MeetFirst(*policy, &part);
      value_loss += by_hand.Update(part)->value_loss / 6;
    }
  }
  ExpectEqual(Weights(trainer), Weights(by_hand));
  ExpectEqual(Weights(trainer), Weights(again));
  EXPECT_NEAR(stats->value_loss, value_loss, 1e-9);
}

TEST(Trainer, LearningRateAndEntropyCoefficientFollowTheRunsProgress) {
  v1::LearnerConfig config = Config();
  config.set_final_learning_rate(1e-4);
  config.set_final_entropy_coefficient(0.001);
  Trainer trainer(config, GruPolicy(1));
  for (const auto& [progress, rate, entropy] :
       {std::tuple(0.0, 1e-3, 0.003), {0.25, 7.75e-4, 0.0025}, {1.0, 1e-4, 0.001}, {1.5, 1e-4, 0.001}}) {
    const auto stats = trainer.Update(RandomBatch(1), progress);
    EXPECT_DOUBLE_EQ(stats->learning_rate, rate);
    EXPECT_DOUBLE_EQ(stats->entropy_coefficient, entropy);
  }
  // What is shown is what is used.
  v1::LearnerConfig constant = Config();
  constant.set_learning_rate(7.75e-4);
  constant.set_entropy_coefficient(0.0025);
  constant.set_final_learning_rate(7.75e-4);
  constant.set_final_entropy_coefficient(0.0025);
  Trainer halfway(config, GruPolicy(2)), always(constant, GruPolicy(2));
  ASSERT_TRUE(halfway.Update(RandomBatch(1), 0.25).ok() && always.Update(RandomBatch(1)).ok());
  for (size_t i = 0; i < Weights(halfway).size(); ++i) {
    EXPECT_TRUE(torch::allclose(Weights(halfway)[i], Weights(always)[i], 1e-6, 1e-9));
  }
}

// The third rank has no experience, and other weights to begin with.
void ExpectRanksToMatchOne(const v1::PolicyConfig& kind) {
  constexpr int kRanks = 3, kUpdates = 4;
  const std::string rendezvous = absl::StrCat("127.0.0.1:", cli::FreePorts(1, FreshRandom64())->front());
  std::vector<TrainingBatch> batches;
  std::vector<std::shared_ptr<Policy>> policies = {GruPolicy(1, kind), GruPolicy(1, kind), GruPolicy(2, kind)};
  for (uint64_t i = 0; i < kUpdates; ++i) {
    batches.push_back(RandomBatch(i, 8, 6, policies[0]->state_size(), ValueCount(kind, {})));
  }
  std::vector<std::vector<torch::Tensor>> weights(kRanks);
  std::vector<TrainingStats> stats(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      at::set_num_threads(1);
      const auto collective = Collective::Join(rank, kRanks, rendezvous, absl::Seconds(60));
      ASSERT_TRUE(collective.ok()) << collective.status();
      Trainer trainer(Config(), policies[rank], collective->get());
      ASSERT_TRUE(trainer.Synchronise().ok());
      for (const TrainingBatch& batch : batches) {
        const auto updated = rank == 0   ? trainer.Update(Part(batch, 0, 2))
                             : rank == 1 ? trainer.Update(Part(batch, 2, 6))
                                         : trainer.UpdateWithoutBatch();
        ASSERT_TRUE(updated.ok()) << updated.status();
        stats[rank] = *updated;
      }
      EXPECT_EQ(trainer.policy_version(), uint64_t{kUpdates});
      weights[rank] = Weights(trainer);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Trainer alone(Config(), GruPolicy(1, kind));
  TrainingStats expected;
  for (const TrainingBatch& batch : batches) expected = *alone.Update(batch);
  for (int rank = 0; rank < kRanks; ++rank) {
    EXPECT_NEAR(stats[rank].policy_loss, expected.policy_loss, 1e-4);
    EXPECT_NEAR(stats[rank].value_loss, expected.value_loss, 1e-4 * expected.value_loss);
    EXPECT_NEAR(stats[rank].explained_variance, expected.explained_variance, 1e-3);
    EXPECT_NEAR(stats[rank].gradient_norm, expected.gradient_norm, 1e-3 * expected.gradient_norm);
    ExpectEqual(weights[rank], weights[0]);
  }
  const auto together = Weights(alone);
  for (size_t i = 0; i < together.size(); ++i) {
    EXPECT_LT((weights[0][i] - together[i]).abs().mean().item<double>(), 1e-5) << "tensor " << i;
  }
}

TEST(Trainer, SeveralRanksMatchOneOnTheBatchOfAll) {
  v1::PolicyConfig normalised;
  normalised.set_kind(v1::POLICY_KIND_MLP);
  normalised.set_value_heads(v1::VALUE_HEADS_SEPARATE);
  normalised.set_normalise_returns(true);
  normalised.set_normalise_observations(true);
  for (const v1::PolicyConfig& kind : {v1::PolicyConfig(), normalised}) ExpectRanksToMatchOne(kind);
}

TEST(Trainer, GoesOnFromASnapshotBitForBit) {
  v1::PolicyConfig kind;
  kind.set_kind(v1::POLICY_KIND_MLP);
  kind.set_normalise_returns(true);
  kind.set_normalise_observations(true);
  const auto batch = [](uint64_t i) { return RandomBatch(i, 8, 6, 0); };
  Trainer straight(Config(), GruPolicy(1, kind)), before(Config(), GruPolicy(1, kind)),
      after(Config(), GruPolicy(2, kind));
  for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(straight.Update(batch(i)).ok());
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(before.Update(batch(i)).ok());
  const auto snapshot = before.Snapshot();
  ASSERT_TRUE(before.Update(batch(99)).ok());  // the snapshot is a copy
  const std::string path = TempFile("resume.safetensors");
  ASSERT_TRUE(WriteFileDurably(path, *snapshot()).ok());
  ASSERT_TRUE(after.Load(path).ok());
  EXPECT_EQ(after.policy_version(), 3u);
  for (uint64_t i = 3; i < 6; ++i) ASSERT_TRUE(after.Update(batch(i)).ok());
  EXPECT_EQ(after.policy_version(), 6u);
  ExpectEqual(Weights(after), Weights(straight));
}

TEST(Trainer, RefusesTheFileOfAnotherNetwork) {
  v1::EnvironmentSpec more = MinigridSpec();
  more.mutable_action()->mutable_discrete()->mutable_parts(0)->add_choices("dance");
  torch::manual_seed(1);
  Trainer other(Config(), *MakePolicy({}, more)), mine(Config(), GruPolicy(1));
  const std::string path = TempFile("other.safetensors");
  ASSERT_TRUE(WriteFileDurably(path, *other.Snapshot()()).ok());
  const auto was = Weights(mine);
  const absl::Status status = mine.Load(path);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_THAT(std::string(status.message()), HasSubstr("actor.weight"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("[8, 128]"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("[7, 128]"));
  ExpectEqual(Weights(mine), was);
  EXPECT_EQ(mine.policy_version(), 0u);
}

TEST(Trainer, ARewardThatIsNotFiniteIsAnErrorAndChangesNothing) {
  Trainer trainer(Config(), GruPolicy(1)), untouched(Config(), GruPolicy(1));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    TrainingBatch batch = RandomBatch(1);
    batch.valid.fill_(true);
    batch.reward[3][2] = bad;
    const auto stats = trainer.Update(batch);
    EXPECT_EQ(stats.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(stats.status().message()), HasSubstr("loss is"));
    EXPECT_EQ(trainer.policy_version(), 0u);
    ExpectEqual(Weights(trainer), Weights(untouched));
  }
  // Nor do Adam's moments remember it.
  ASSERT_TRUE(trainer.Update(RandomBatch(2)).ok());
  ASSERT_TRUE(untouched.Update(RandomBatch(2)).ok());
  ExpectEqual(Weights(trainer), Weights(untouched));
}

// What Update should make of a batch, step by step: the policy sees one observation at a time, and the value of a
// truncated step's final observation continues that step's own state.
// `targets`: the value targets [T, B, V], if wanted. `proximal`: the proximal policy's log-probabilities; this policy's
// are left in it where it is undefined.
LiteralLosses StepByStep(Policy& policy, const TrainingBatch& batch, const v1::LearnerConfig& config,
                         torch::Tensor* targets = nullptr, torch::Tensor* proximal = nullptr) {
  torch::NoGradGuard no_grad;
  const int64_t T = batch.reward.size(0), B = batch.reward.size(1), V = batch.reward.size(2);
  LossInputs loss;
  std::vector<torch::Tensor> critics, values, log_probs, entropies;
  torch::Tensor final_value = torch::zeros({T, B, V}), state = batch.state;
  for (int64_t t = 0; t <= T; ++t) {
    Observations now;
    for (const torch::Tensor& array : batch.observation) now.push_back(array.slice(0, t, t + 1));
    const PolicyOutput output = policy.Forward(now, batch.first.slice(0, t, t + 1), state);
    state = output.states[0];
    values.push_back(output.value[0]);
    if (t == T) break;
    critics.push_back(output.critic[0]);
    const torch::Tensor all = output.action[0].log_softmax(-1);
    log_probs.push_back(all.gather(1, batch.action[t]).squeeze(1));
    entropies.push_back(-(all.exp() * all).sum(1));
    for (int64_t f = 0; f < batch.final_step.size(0); ++f) {
      if (batch.final_step[f].item<int64_t>() != t) continue;
      const int64_t b = batch.final_unroll[f].item<int64_t>();
      Observations last;
      for (const torch::Tensor& array : batch.final_observation) last.push_back(array[f].unsqueeze(0).unsqueeze(0));
      final_value[t][b] = policy.Forward(last, torch::zeros({1, 1}, torch::kBool), state[b].unsqueeze(0)).value[0][0];
    }
  }
  loss.log_prob = torch::stack(log_probs);
  loss.entropy = torch::stack(entropies);
  loss.critic = torch::stack(critics);
  loss.code = policy.critic()->code();
  loss.proximal_log_prob = proximal != nullptr && proximal->defined() ? *proximal : loss.log_prob;
  if (proximal != nullptr) *proximal = loss.proximal_log_prob;
  loss.behaviour_value = batch.behaviour_value;
  loss.valid = batch.valid;
  loss.target = torch::empty({T, B, V});
  loss.advantage = torch::zeros({T, B});
  for (int64_t head = 0; head < V; ++head) {
    VtraceInputs vtrace;
    vtrace.ratio = (loss.proximal_log_prob - batch.behaviour_log_prob).exp();
    vtrace.reward = batch.reward.select(2, head).contiguous();
    vtrace.terminated = batch.terminated;
    vtrace.truncated = batch.truncated;
    vtrace.value = torch::stack(values).select(2, head).contiguous();
    vtrace.final_value = final_value.select(2, head).contiguous();
    vtrace.gamma = head == 0 ? config.gamma() : config.intrinsic_gamma();
    vtrace.rho_bar = config.vtrace_rho();
    vtrace.c_bar = config.vtrace_c();
    for (int64_t b = 0; b < B; ++b) {
      const LiteralVtrace column = LiteralVtraceOf(vtrace, b);
      for (int t = 0; t < T; ++t) {
        loss.target[t][b][head] = column.Target(t);
        loss.advantage[t][b] += column.Advantage(t);
      }
    }
  }
  if (targets != nullptr) *targets = loss.target;
  return LiteralLossesOf(loss, config);
}

TEST(Trainer, AgreesWithThePolicyRunStepByStep) {
  for (const v1::PolicyConfig& kind : ValueKinds()) {
    const auto policy = GruPolicy(1, kind);
    Trainer trainer(Config(), policy);
    for (uint64_t update = 0; update < 3; ++update) {
      const TrainingBatch batch = RandomBatch(update + 10, 8, 6, 128, ValueCount(kind, {}));
      ASSERT_GT(batch.final_step.size(0), 0);
      const LiteralLosses expected = StepByStep(*policy, batch, Config());
      const auto stats = trainer.Update(batch);
      ASSERT_TRUE(stats.ok()) << stats.status();
      EXPECT_NEAR(stats->policy_loss, expected.policy, 1e-5);
      EXPECT_NEAR(stats->value_loss, expected.value, 1e-5 * expected.value);
      EXPECT_NEAR(stats->entropy, expected.entropy, 1e-5);
      EXPECT_NEAR(stats->clip_fraction, expected.clip_fraction, 1e-6);
    }
  }
}

// The numbers of `x` [T, B, N] at valid steps: mean and deviation [2, N].
torch::Tensor MeanAndDeviation(const std::vector<torch::Tensor>& x, const std::vector<torch::Tensor>& valid) {
  std::vector<torch::Tensor> rows;
  for (size_t i = 0; i < x.size(); ++i) {
    rows.push_back(x[i].reshape({-1, x[i].size(-1)}).index({valid[i].reshape({-1})}).to(torch::kFloat64));
  }
  const torch::Tensor all = torch::cat(rows);
  return torch::stack({all.mean(0), all.std(0, /*unbiased=*/false).clamp_min(1e-4)});
}

TEST(Trainer, NormalisesReturnsByThoseOfAllBatches) {
  v1::PolicyConfig kind;
  kind.set_value_heads(v1::VALUE_HEADS_SEPARATE);
  kind.set_normalise_returns(true);
  v1::LearnerConfig config = Config();
  config.set_epochs(1);
  const auto policy = GruPolicy(1, kind);
  Trainer trainer(config, policy);
  const RunningStatistics returns = policy->critic()->code().statistics;
  // The first batch's, then the mean of both.
  TrainingBatch batch = RandomBatch(1, 8, 6, 128, 2);
  torch::Tensor first, second;
  StepByStep(*policy, batch, config, &first);
  ASSERT_TRUE(trainer.Update(batch).ok());
  const torch::Tensor one = MeanAndDeviation({first}, {batch.valid});
  EXPECT_TRUE(torch::allclose(returns->mean().to(torch::kFloat64), one[0], 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(returns->deviation().to(torch::kFloat64), one[1], 1e-4, 1e-5));
  batch = RandomBatch(2, 8, 6, 128, 2);
  StepByStep(*policy, batch, config, &second);
  ASSERT_TRUE(trainer.Update(batch).ok());
  const torch::Tensor two = MeanAndDeviation({second}, {batch.valid});
  EXPECT_TRUE(torch::allclose(returns->mean().to(torch::kFloat64), (one[0] + two[0]) / 2, 1e-4, 1e-5));
  // No valid step, nothing to follow.
  const torch::Tensor was = returns->mean().clone();
  batch.valid.fill_(false);
  ASSERT_TRUE(trainer.Update(batch).ok());
  EXPECT_TRUE(torch::equal(returns->mean(), was));
}

TEST(Trainer, NormalisesObservationsByAllThatWereTrainedOn) {
  v1::PolicyConfig kind;
  kind.set_kind(v1::POLICY_KIND_MLP);
  kind.set_normalise_observations(true);
  const auto policy = GruPolicy(1, kind);
  Trainer trainer(Config(), policy);
  std::vector<torch::Tensor> numbers, valid;
  for (uint64_t i = 0; i < 3; ++i) {
    const TrainingBatch batch = RandomBatch(i, 8, 6, 0);
    Observations shown;
    for (const torch::Tensor& array : batch.observation) shown.push_back(array.slice(0, 0, 8));
    numbers.push_back(policy->InputNumbers(shown));
    valid.push_back(batch.valid);
    ASSERT_TRUE(trainer.Update(batch).ok());
  }
  const torch::Tensor expected = MeanAndDeviation(numbers, valid);
  const RunningStatistics inputs = policy->input_statistics();
  EXPECT_TRUE(torch::allclose(inputs->mean().to(torch::kFloat64), expected[0], 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(inputs->deviation().to(torch::kFloat64), expected[1], 1e-3, 1e-4));
}

TEST(Trainer, BootstrapsATruncatedStepWithTheStateBeforeTheReset) {
  const auto policy = GruPolicy(3);
  TrainingBatch batch = RandomBatch(3, 3, 1);
  batch.terminated.fill_(false);
  batch.truncated = torch::tensor({{false}, {true}, {false}});
  batch.first = torch::tensor({{false}, {false}, {true}, {false}});
  batch.valid.fill_(true);
  batch.final_step = torch::tensor({int64_t{1}});
  batch.final_unroll = torch::tensor({int64_t{0}});
  batch.final_observation.clear();
  for (const torch::Tensor& array : RandomObservations(MinigridSpec(), 1, 1))
    batch.final_observation.push_back(array[0]);
  const double expected = StepByStep(*policy, batch, Config()).value;
  TrainingBatch without_memory = batch;
  without_memory.state = torch::zeros_like(batch.state);
  EXPECT_GT(std::abs(StepByStep(*policy, without_memory, Config()).value - expected), 1e-4)
      << "the state should matter";
  Trainer trainer(Config(), policy);
  const auto stats = trainer.Update(batch);
  ASSERT_TRUE(stats.ok());
  EXPECT_NEAR(stats->value_loss, expected, 1e-5);
}

TEST(Trainer, AnUnrollOfInvalidStepsDoesNotMatter) {
  TrainingBatch batch = RandomBatch(1);
  batch.valid.select(1, 2).fill_(false);
  TrainingBatch changed = batch;
  changed.reward = batch.reward.clone();
  changed.reward.select(1, 2) += 7;
  changed.behaviour_log_prob = batch.behaviour_log_prob.clone();
  changed.behaviour_log_prob.select(1, 2) -= 3;
  changed.behaviour_value = batch.behaviour_value.clone();
  changed.behaviour_value.select(1, 2) += 5;
  changed.action = batch.action.clone();
  changed.action.select(1, 2).fill_(0);
  Trainer a(Config(), GruPolicy(1)), b(Config(), GruPolicy(1));
  ASSERT_TRUE(a.Update(batch).ok());
  ASSERT_TRUE(b.Update(changed).ok());
  ExpectEqual(Weights(a), Weights(b));
}

TEST(Trainer, UsesABatchAsManyTimesAsItIsTold) {
  v1::LearnerConfig twice = Config();
  twice.set_epochs(2);
  const auto policy = GruPolicy(1);
  Trainer a(twice, GruPolicy(1)), b(Config(), policy);
  TrainingBatch batch = RandomBatch(1);
  ASSERT_TRUE(a.Update(batch).ok());
  MeetFirst(*policy, &batch);
  ASSERT_TRUE(b.Update(batch).ok());
  EXPECT_EQ(a.policy_version(), 2u);
  EXPECT_TRUE(AnyDiffers(Weights(a), Weights(b)));
  ASSERT_TRUE(b.Update(batch).ok());
  ExpectEqual(Weights(a), Weights(b));
}

TEST(Trainer, ClipsLaterEpochsAroundThePolicyThatFirstMetTheBatch) {
  v1::LearnerConfig twice = Config(), once = Config();
  twice.set_learning_rate(3e-3);
  once.set_learning_rate(3e-3);
  twice.set_epochs(2);
  const auto policy = GruPolicy(1);
  Trainer trainer(twice, GruPolicy(1)), first_epoch(once, policy);
  const TrainingBatch batch = RandomBatch(1);
  torch::Tensor proximal;
  const LiteralLosses one = StepByStep(*policy, batch, once, nullptr, &proximal);
  ASSERT_TRUE(first_epoch.Update(batch).ok());
  const LiteralLosses two = StepByStep(*policy, batch, once, nullptr, &proximal);
  const auto stats = trainer.Update(batch);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(one.clip_fraction, 0) << "nothing has moved yet, however old the batch is";
  EXPECT_GT(two.clip_fraction, 0);
  EXPECT_NEAR(stats->clip_fraction, two.clip_fraction / 2, 1e-6);
  EXPECT_NEAR(stats->policy_loss, (one.policy + two.policy) / 2, 1e-5);
  EXPECT_NEAR(stats->value_loss, (one.value + two.value) / 2, 1e-4);
  const torch::Tensor ratio = (proximal - batch.behaviour_log_prob).exp();
  EXPECT_NEAR(stats->mean_ratio, ratio.index({batch.valid}).mean().item<double>(), 1e-5);
}

// The same loss, differentiated, clipped and applied by LibTorch's own tools.
TEST(Trainer, StepsAsLibTorchsAdamDoes) {
  for (const double max_norm : {1e9, 0.1}) {
    v1::LearnerConfig config = Config();
    config.set_max_gradient_norm(max_norm);
    const auto policy = GruPolicy(1);
    Trainer trainer(config, GruPolicy(1));
    torch::optim::Adam adam(policy->parameters(),
                            torch::optim::AdamOptions(config.learning_rate()).eps(config.adam_epsilon()));
    for (uint64_t i = 0; i < 5; ++i) {
      TrainingBatch batch = RandomBatch(i);
      batch.terminated = batch.terminated.logical_or(batch.truncated);
      batch.truncated = torch::zeros_like(batch.terminated);
      batch.final_step = batch.final_unroll = torch::empty({0}, torch::kInt64);
      for (torch::Tensor& array : batch.final_observation) array = array.slice(0, 0, 0);
      const int64_t T = batch.reward.size(0);
      const PolicyOutput output = policy->Forward(batch.observation, batch.first, batch.state);
      const torch::Tensor all = output.action.slice(0, 0, T).log_softmax(-1);
      LossInputs loss;
      loss.log_prob = all.gather(-1, batch.action).squeeze(-1);
      loss.entropy = -(all.exp() * all).sum(-1);
      loss.critic = output.critic.slice(0, 0, T);
      loss.code = policy->critic()->code();
      loss.value = output.value.slice(0, 0, T);
      loss.proximal_log_prob = loss.log_prob.detach();
      loss.behaviour_value = batch.behaviour_value;
      loss.valid = batch.valid;
      VtraceInputs vtrace;
      vtrace.ratio = (loss.log_prob - batch.behaviour_log_prob).exp();
      vtrace.reward = batch.reward.squeeze(-1);
      vtrace.terminated = batch.terminated;
      vtrace.truncated = batch.truncated;
      vtrace.value = output.value.squeeze(-1);
      vtrace.final_value = torch::zeros_like(vtrace.reward);
      vtrace.gamma = config.gamma();
      const VtraceOutputs targets = Vtrace(vtrace);
      loss.target = targets.target.unsqueeze(-1);
      loss.advantage = targets.advantage;
      adam.zero_grad();
      ComputeLosses(loss, LossSums(loss), config.entropy_coefficient(), config).total.backward();
      const double norm = torch::nn::utils::clip_grad_norm_(policy->parameters(), max_norm);
      adam.step();
      {
        // The statistics of MiniGrid's inputs follow what was trained on after the step.
        torch::NoGradGuard no_grad;
        Observations shown;
        for (const torch::Tensor& array : batch.observation) shown.push_back(array.slice(0, 0, T));
        const torch::Tensor numbers = policy->InputNumbers(shown).index({batch.valid.flatten()}).to(torch::kFloat64);
        policy->input_statistics()->Follow(numbers.mean(0), numbers.square().mean(0),
                                           static_cast<double>(numbers.size(0)));
      }
      const auto stats = trainer.Update(batch);
      ASSERT_TRUE(stats.ok()) << stats.status();
      EXPECT_NEAR(stats->gradient_norm, norm, 1e-3 * norm);
    }
    const auto weights = Weights(trainer), expected = policy->parameters();
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_LT((weights[i] - expected[i]).abs().max().item<double>(), 1e-5) << "tensor " << i;
    }
  }
}

void ExpectToLearnWhichArmPays(const v1::PolicyConfig& kind) {
  v1::EnvironmentSpec spec;
  spec.set_name("test/Bandit");
  *spec.add_observation() = MakeTensorSpec("nothing", v1::DTYPE_FLOAT32, {2});
  *spec.mutable_action() = OneOf({"left", "middle", "right"});
  torch::manual_seed(1);
  const std::shared_ptr<Policy> policy = *MakePolicy(kind, spec);
  v1::LearnerConfig config = Config();
  config.set_learning_rate(3e-3);
  Trainer trainer(config, policy);
  const int64_t T = 4, B = 32;
  torch::Tensor probability;
  for (int update = 0; update < 150; ++update) {
    TrainingBatch batch;
    batch.observation = {torch::ones({T + 1, B, 2})};
    batch.first = torch::ones({T + 1, B}, torch::kBool);
    batch.state = torch::zeros({B, 0});
    {
      torch::NoGradGuard no_grad;
      const PolicyOutput output = policy->Forward(batch.observation, batch.first, batch.state);
      const torch::Tensor log_probs = output.action.slice(0, 0, T).log_softmax(-1);
      probability = log_probs[0][0].exp();
      batch.action = log_probs.exp().view({T * B, 3}).multinomial(1).view({T, B, 1});
      batch.behaviour_log_prob = log_probs.gather(-1, batch.action).squeeze(-1);
      batch.behaviour_value = output.value.slice(0, 0, T);
    }
    const int64_t V = ValueCount(kind, {});
    batch.reward = batch.action.eq(2).to(torch::kFloat32).expand({T, B, V}) / V;
    batch.terminated = torch::ones({T, B}, torch::kBool);
    batch.truncated = torch::zeros({T, B}, torch::kBool);
    batch.valid = torch::ones({T, B}, torch::kBool);
    batch.final_observation = {torch::empty({0, 2})};
    batch.final_step = batch.final_unroll = torch::empty({0}, torch::kInt64);
    const auto stats = trainer.Update(batch);
    ASSERT_TRUE(stats.ok()) << stats.status();
  }
  EXPECT_GT(probability[2].item<double>(), 0.9);
}

TEST(Trainer, LearnsWhichArmPays) {
  for (v1::PolicyConfig kind : ValueKinds()) {
    ExpectToLearnWhichArmPays(kind);
    kind.set_normalise_observations(true);
    ExpectToLearnWhichArmPays(kind);
  }
}

}  // namespace
}  // namespace sibyl::learner
