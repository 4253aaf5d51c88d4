// Every distribution over actions against its formula, computed number by number in double.

#include "policy/action_distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "common/action_spec.h"
#include "common/columns.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

v1::EnvironmentSpec Discrete(const std::vector<int>& parts, bool masked = false) {
  v1::EnvironmentSpec spec;
  int all = 0;
  for (const int choices : parts) {
    v1::ActionSpec::Part* part = spec.mutable_action()->mutable_discrete()->add_parts();
    for (int i = 0; i < choices; ++i) part->add_choices("c");
    all += choices;
  }
  *spec.add_observation() = MakeTensorSpec("other", v1::DTYPE_FLOAT32, {});
  *spec.add_observation() = MakeTensorSpec("legal", v1::DTYPE_UINT8, {static_cast<uint32_t>(all)});
  if (masked) spec.mutable_action()->set_mask("legal");
  return spec;
}

v1::EnvironmentSpec Box(int numbers) {
  v1::EnvironmentSpec spec;
  for (int i = 0; i < numbers; ++i) {
    spec.mutable_action()->mutable_box()->add_low(-1);
    spec.mutable_action()->mutable_box()->add_high(1);
  }
  return spec;
}

// Log-probability and entropy of parts with these logits, one after another; `legal`: 0 takes a choice out.
std::pair<double, double> Literal(const std::vector<int>& parts, const float* logits, const int64_t* action,
                                  const uint8_t* legal) {
  double log_prob = 0, entropy = 0;
  for (const int choices : parts) {
    double sum = 0;
    for (int i = 0; i < choices; ++i) sum += legal[i] != 0 ? std::exp(double{logits[i]}) : 0;
    for (int i = 0; i < choices; ++i) {
      if (legal[i] == 0) continue;
      const double p = std::exp(double{logits[i]}) / sum;
      entropy -= p * std::log(p);
      if (*action == i) log_prob += std::log(p);
    }
    logits += choices;
    legal += choices;
    ++action;
  }
  return {log_prob, entropy};
}

TEST(ActionDistribution, ChoicesAreSoftmaxesOfTheirLogits) {
  torch::manual_seed(1);
  constexpr int64_t T = 3, B = 20;
  for (const std::vector<int>& parts : {std::vector<int>{7}, {2, 5}, {3, 1, 4}}) {
    for (const bool masked : {false, true}) {
      const ActionDistribution distribution(Discrete(parts, masked));
      const int64_t P = distribution.parameters(), N = static_cast<int64_t>(parts.size());
      ASSERT_EQ(distribution.numbers(), N);
      const torch::Tensor logits = torch::randn({T, B, P}) * 2;
      torch::Tensor legal = torch::ones({T, B, P}, torch::kUInt8), action = torch::zeros({T, B, N}, torch::kInt64);
      int64_t begin = 0;
      for (int64_t part = 0; part < N; begin += parts[part++]) {
        action.select(-1, part).copy_(torch::randint(parts[part], {T, B}));
        if (!masked) continue;
        // The action that was taken was legal.
        const torch::Tensor of_part = torch::randint(2, {T, B, parts[part]}, torch::kUInt8);
        of_part.scatter_(-1, action.slice(-1, part, part + 1), 1);
        legal.slice(-1, begin, begin + parts[part]).copy_(of_part);
      }
      const torch::Tensor parameters = distribution.Masked(logits, {torch::Tensor(), legal});
      const auto [log_prob, entropy] = distribution.At(parameters, action);
      ASSERT_EQ(log_prob.sizes(), (std::vector<int64_t>{T, B}));
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t b = 0; b < B; ++b) {
          const auto [want, want_entropy] =
              Literal(parts, logits[t][b].data_ptr<float>(), action[t][b].contiguous().data_ptr<int64_t>(),
                      legal[t][b].data_ptr<uint8_t>());
          EXPECT_NEAR(log_prob[t][b].item<double>(), want, 1e-5);
          EXPECT_NEAR(entropy[t][b].item<double>(), want_entropy, 1e-5);
        }
      }
    }
  }
}

TEST(ActionDistribution, NumbersAreNormal) {
  torch::manual_seed(2);
  constexpr int64_t T = 2, B = 10, D = 3;
  const ActionDistribution distribution(Box(D));
  ASSERT_EQ(distribution.parameters(), 2 * D);
  // Some log-deviations lie outside [-5, 2].
  const torch::Tensor parameters = torch::randn({T, B, 2 * D}) * 3, action = torch::randn({T, B, D});
  const auto [log_prob, entropy] = distribution.At(parameters, action);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      double want = 0, want_entropy = 0;
      for (int64_t i = 0; i < D; ++i) {
        const double mean = parameters[t][b][i].item<float>();
        const double deviation = std::exp(std::clamp(double{parameters[t][b][D + i].item<float>()}, -5.0, 2.0));
        const double a = action[t][b][i].item<float>();
        want += std::log(1 / (deviation * std::sqrt(2 * M_PI)) *
                             std::exp(-(a - mean) * (a - mean) / (2 * deviation * deviation)) +
                         std::numeric_limits<double>::min());
        want_entropy += 0.5 * std::log(2 * M_PI * M_E * deviation * deviation);
      }
      // Below, the density itself is too small for a double.
      if (want > -600) {
        EXPECT_NEAR(log_prob[t][b].item<double>(), want, 1e-4 * std::max(1.0, std::abs(want)));
      }
      EXPECT_NEAR(entropy[t][b].item<double>(), want_entropy, 1e-4);
    }
  }
}

TEST(ActionDistribution, DrawsChoicesAsOftenAsTheyAreProbableAndNeverIllegalOnes) {
  torch::manual_seed(3);
  const std::vector<int> parts = {3, 4};
  const ActionDistribution distribution(Discrete(parts, true));
  const torch::Tensor logits = torch::randn({1, 1, 7});
  const torch::Tensor legal = torch::tensor({1, 0, 1, 1, 1, 0, 1}, torch::kUInt8).view({1, 1, 7});
  const torch::Tensor parameters = distribution.Masked(logits, {torch::Tensor(), legal});
  const torch::Tensor row = distribution.ForDrawing(parameters[0]);
  Random random(4);
  constexpr int kDraws = 40'000;
  std::map<std::pair<int, int>, int> drawn;
  double entropy = 0;
  std::string action(distribution.action_bytes(), '\0');
  for (int i = 0; i < kDraws; ++i) {
    const float log_prob = distribution.Draw(row.data_ptr<float>(), random, action.data());
    entropy -= log_prob / kDraws;
    ++drawn[{EntryOf<uint16_t>(action, 0), EntryOf<uint16_t>(action, 1)}];
    if (i >= 100) continue;
    torch::Tensor numbers = torch::zeros({1, 1, 2}, torch::kInt64);
    distribution.Decode(action.data(), numbers.data_ptr());
    EXPECT_NEAR(distribution.At(parameters, numbers).log_prob.item<float>(), log_prob, 1e-5);
  }
  for (int first = 0; first < 3; ++first) {
    for (int second = 0; second < 4; ++second) {
      const torch::Tensor both = torch::tensor({first, second}, torch::kInt64).view({1, 1, 2});
      const double probability = std::exp(distribution.At(parameters, both).log_prob.item<double>());
      const double deviation = std::sqrt(probability * (1 - probability) / kDraws);
      const auto found = drawn.find({first, second});
      EXPECT_NEAR((found == drawn.end() ? 0 : found->second) / double{kDraws}, probability, 5 * deviation + 1e-12);
      if (legal[0][0][first].item<int>() == 0 || legal[0][0][3 + second].item<int>() == 0) {
        EXPECT_EQ(found, drawn.end());
      }
    }
  }
  const torch::Tensor any = torch::zeros({1, 1, 2}, torch::kInt64);
  EXPECT_NEAR(entropy, distribution.At(parameters, any).entropy.item<double>(), 0.02);
}

TEST(ActionDistribution, DrawsNumbersWithTheirMeansAndDeviations) {
  const ActionDistribution distribution(Box(2));
  const torch::Tensor parameters = torch::tensor({0.5f, -2.0f, std::log(0.1f), std::log(3.0f)}).view({1, 1, 4});
  const torch::Tensor row = distribution.ForDrawing(parameters[0]);
  Random random(5);
  constexpr int kDraws = 40'000;
  double sum[2] = {}, squares[2] = {};
  std::string action(distribution.action_bytes(), '\0');
  for (int i = 0; i < kDraws; ++i) {
    const float log_prob = distribution.Draw(row.data_ptr<float>(), random, action.data());
    torch::Tensor numbers = torch::zeros({1, 1, 2});
    distribution.Decode(action.data(), numbers.data_ptr());
    for (int d = 0; d < 2; ++d) {
      const double number = EntryOf<float>(action, d);
      sum[d] += number / kDraws;
      squares[d] += number * number / kDraws;
    }
    if (i < 100) {
      EXPECT_NEAR(distribution.At(parameters, numbers).log_prob.item<float>(), log_prob, 1e-3);
    }
  }
  EXPECT_NEAR(sum[0], 0.5, 5 * 0.1 / 200);
  EXPECT_NEAR(sum[1], -2, 5 * 3.0 / 200);
  EXPECT_NEAR(std::sqrt(squares[0] - sum[0] * sum[0]), 0.1, 0.003);
  EXPECT_NEAR(std::sqrt(squares[1] - sum[1] * sum[1]), 3, 0.09);
}

TEST(ActionDistribution, TheBestActionIsTheMostProbableOne) {
  const ActionDistribution choices(Discrete({2, 3}));
  const torch::Tensor logits = torch::tensor({0.0f, 1.0f, 2.0f, 0.0f, 1.0f}).view({1, 5});
  std::string action(choices.action_bytes(), '\0');
  const float log_prob = choices.Best(choices.ForDrawing(logits).data_ptr<float>(), action.data());
  EXPECT_EQ(EntryOf<uint16_t>(action, 0), 1);
  EXPECT_EQ(EntryOf<uint16_t>(action, 1), 0);
  EXPECT_NEAR(log_prob, choices.At(logits, torch::tensor({1, 0}, torch::kInt64).view({1, 2})).log_prob.item<float>(),
              1e-5);
  const ActionDistribution box(Box(2));
  const torch::Tensor normal = torch::tensor({0.5f, -2.0f, 0.0f, 0.0f}).view({1, 4});
  std::string numbers(box.action_bytes(), '\0');
  box.Best(box.ForDrawing(normal).data_ptr<float>(), numbers.data());
  EXPECT_EQ(EntryOf<float>(numbers, 0), 0.5f);
  EXPECT_EQ(EntryOf<float>(numbers, 1), -2.0f);
}

TEST(ActionDistribution, AnOutputThatIsNotFiniteIsSeen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Random random(6);
  std::string action(16, '\0');
  const ActionDistribution choices(Discrete({3})), box(Box(1));
  const torch::Tensor bad = torch::tensor({0.0f, nan, 1.0f}).view({1, 3});
  EXPECT_FALSE(std::isfinite(choices.Draw(choices.ForDrawing(bad).data_ptr<float>(), random, action.data())));
  for (const auto& parameters : {std::pair(nan, 0.0f), {0.0f, nan}}) {
    const torch::Tensor row = torch::tensor({parameters.first, parameters.second}).view({1, 2});
    EXPECT_FALSE(std::isfinite(box.Draw(box.ForDrawing(row).data_ptr<float>(), random, action.data())));
  }
}

}  // namespace
}  // namespace sibyl
