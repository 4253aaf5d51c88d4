#include "policy/critic.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sibyl {
namespace {

v1::PolicyConfig Config(int bins, bool normalised) {
  v1::PolicyConfig config;
  config.set_value_bins(bins);
  config.set_value_low(-2);
  config.set_value_high(3);
  config.set_normalise_returns(normalised);
  return config;
}

TEST(RunningStatistics, AreThoseOfEverythingWhereNothingIsForgotten) {
  torch::manual_seed(1);
  RunningStatistics statistics(3, 0);
  EXPECT_TRUE(torch::equal(statistics->Normalise(torch::ones({2, 3})), torch::ones({2, 3}))) << "before there is any";
  std::vector<torch::Tensor> rows;
  for (const int64_t count : {5, 1, 200}) {
    rows.push_back(torch::randn({count, 3}, torch::kFloat64) * torch::tensor({1.0, 10.0, 0.0}) + 7);
    statistics->Follow(rows.back().mean(0), rows.back().square().mean(0), static_cast<double>(count));
  }
  const torch::Tensor all = torch::cat(rows);
  EXPECT_TRUE(torch::allclose(statistics->mean().to(torch::kFloat64), all.mean(0), 1e-5));
  const torch::Tensor deviation = all.std(0, false).clamp_min(1e-4);
  EXPECT_TRUE(torch::allclose(statistics->deviation().to(torch::kFloat64), deviation, 1e-3, 1e-3));
  const torch::Tensor normal = statistics->Normalise(all.to(torch::kFloat32));
  EXPECT_LT(normal.mean(0).abs().max().item<float>(), 1e-2);
  EXPECT_NEAR(normal.select(1, 1).std(0, false).item<float>(), 1, 1e-3);
  EXPECT_TRUE(torch::allclose(statistics->Denormalise(normal), all.to(torch::kFloat32), 1e-4, 1e-4));
}

TEST(RunningStatistics, ForgetAtTheLeastRate) {
  RunningStatistics statistics(1, 0.25);
  const auto follow = [&](double x) {
    statistics->Follow(torch::tensor({x}, torch::kFloat64), torch::tensor({x * x + 1}, torch::kFloat64), 1);
    return statistics->mean().item<double>();
  };
  // 1/1, 1/2, 1/3, 1/4 of what is new, and 1/4 from then on.
  EXPECT_DOUBLE_EQ(follow(8), 8);
  EXPECT_DOUBLE_EQ(follow(0), 4);
  EXPECT_NEAR(follow(1), 3, 1e-6);
  EXPECT_NEAR(follow(7), 4, 1e-6);
  EXPECT_NEAR(follow(8), 5, 1e-6);
  EXPECT_NEAR(follow(5), 5, 1e-6);
}

TEST(Critic, SaysHeadsTimesNumbers) {
  for (const bool normalised : {false, true}) {
    Critic scalar(8, Config(0, normalised), 2), binned(8, Config(11, normalised), 2);
    const torch::Tensor features = torch::randn({4, 3, 8});
    EXPECT_EQ(scalar(features).sizes(), (std::vector<int64_t>{4, 3, 2, 1}));
    EXPECT_EQ(binned(features).sizes(), (std::vector<int64_t>{4, 3, 2, 11}));
    EXPECT_EQ(scalar->code().Decode(scalar(features)).sizes(), (std::vector<int64_t>{4, 3, 2}));
    const torch::Tensor values = binned->code().Decode(binned(features));
    EXPECT_EQ(values.sizes(), (std::vector<int64_t>{4, 3, 2}));
    EXPECT_LT((values - 0.5).abs().max().item<float>(), 0.2) << "fresh: the middle of the bins";
  }
}

TEST(Critic, ValuesStayWhatTheyWereWhenTheirUnitsFollowTheReturns) {
  torch::manual_seed(3);
  Critic critic(8, Config(0, true), 2);
  const torch::Tensor features = torch::randn({4, 3, 8});
  const torch::Tensor was = critic->code().Decode(critic(features)), raw = critic(features).detach().clone();
  for (const double mean : {3.0, -40.0, 12.5}) {
    const torch::Tensor means = torch::tensor({mean, 0.5}, torch::kFloat64);
    critic->FollowReturns(means, means.square() + torch::tensor({25.0, 0.01}, torch::kFloat64));
    EXPECT_TRUE(torch::allclose(critic->code().Decode(critic(features)), was, 1e-3, 1e-3));
  }
  EXPECT_FALSE(torch::allclose(critic(features), raw, 1e-3, 1e-3)) << "they are written otherwise";
  const torch::Tensor values = torch::randn({4, 3, 2});
  EXPECT_TRUE(torch::allclose(critic->code().Encode(values),
                              (values - critic->code().statistics->mean()) / critic->code().statistics->deviation()));
}

TEST(BinTargets, AreTheNormalDistributionsIntegralsWithinTheRange) {
  const torch::Tensor bins = torch::linspace(-2, 3, 11, torch::kFloat64);
  const double width = 0.5, deviation = 0.75 * width;
  for (const double value : {-1.7, 0.0, 0.26, 3.0}) {
    const torch::Tensor targets = BinTargets(bins, torch::tensor({value}, torch::kFloat64))[0];
    EXPECT_NEAR(targets.sum().item<double>(), 1, 1e-12);
    double inside = 0;
    std::vector<double> expected;
    for (int k = 0; k < 11; ++k) {
      // By the rectangle rule, a thousand to a bin.
      double integral = 0;
      for (int i = 0; i < 1000; ++i) {
        const double x = -2 + k * width + ((i + 0.5) / 1000 - 0.5) * width;
        integral += std::exp(-(x - value) * (x - value) / (2 * deviation * deviation)) * width / 1000;
      }
      expected.push_back(integral);
      inside += integral;
    }
    for (int k = 0; k < 11; ++k) EXPECT_NEAR(targets[k].item<double>(), expected[k] / inside, 1e-6);
  }
}

TEST(BinTargets, HaveTheValueAsTheirMeanWhereItIsWellInside) {
  const torch::Tensor bins = torch::linspace(-5, 5, 51, torch::kFloat64);
  const torch::Tensor values = torch::linspace(-4, 4, 33, torch::kFloat64).view({3, 11});
  EXPECT_TRUE(torch::allclose(BinTargets(bins, values).matmul(bins), values, 0, 1e-3));
  // Outside, the nearest centre.
  const torch::Tensor far = torch::tensor({-100.0, -5.0, 5.0, 100.0}, torch::kFloat64);
  const torch::Tensor targets = BinTargets(bins, far);
  EXPECT_TRUE(torch::equal(targets[0], targets[1]));
  EXPECT_TRUE(torch::equal(targets[2], targets[3]));
}

}  // namespace
}  // namespace sibyl
