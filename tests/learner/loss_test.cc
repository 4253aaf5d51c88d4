#include "learner/training/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "policy/torch.h"
#include "tests/learner/literal.h"

namespace sibyl::learner {
namespace {

v1::LearnerConfig Config() {
  v1::LearnerConfig config;
  config.set_ppo_clip(0.1);
  config.set_min_advantage_deviation(1e-3);
  config.set_value_clip(0.5);
  config.set_value_coefficient(0.7);
  config.set_entropy_coefficient(0.03);
  return config;
}

// What kind of values: how many, whether over bins, whether normalised.
struct Values {
  int64_t heads = 1, bins = 0;
  bool normalised = false;
};

LossInputs RandomInputs(int64_t T, int64_t B, const Values& values = {}) {
  const auto numbers = [&](double deviation) { return torch::randn({T, B}, torch::kFloat64) * deviation; };
  const auto by_head = [&](double deviation) {
    return torch::randn({T, B, values.heads}, torch::kFloat64) * deviation;
  };
  LossInputs in;
  if (values.normalised) {
    in.code.statistics = RunningStatistics(values.heads, 0);
    in.code.statistics->Follow(torch::rand({values.heads}), torch::rand({values.heads}) + 2, 1);
    in.code.statistics->to(torch::kFloat64);
  }
  if (values.bins > 0) in.code.bins = torch::linspace(-2, 1.5, values.bins, torch::kFloat64);
  in.proximal_log_prob = numbers(1) - 2;
  in.log_prob = (in.proximal_log_prob + numbers(0.15)).requires_grad_();
  in.entropy = numbers(1).abs().requires_grad_();
  in.behaviour_value = by_head(1);
  in.critic = (values.bins > 0 ? torch::randn({T, B, values.heads, values.bins}, torch::kFloat64)
                               : in.code.Encode(in.behaviour_value + by_head(0.6)).unsqueeze(-1))
                  .requires_grad_();
  in.value = in.code.Decode(in.critic.detach());
  in.target = by_head(1);
  in.advantage = numbers(3) + 1;
  in.valid = torch::rand({T, B}).lt(0.7);
  return in;
}

TEST(Losses, AgreeWithTheirFormulasStepByStep) {
  torch::manual_seed(1);
  const v1::LearnerConfig config = Config();
  for (const Values& values :
       {Values{}, {}, {}, {.heads = 2}, {.normalised = true}, {2, 0, true}, {1, 7}, {2, 20, true}}) {
    const LossInputs in = RandomInputs(7, 5, values);
    const LiteralLosses expected = LiteralLossesOf(in, config);
    const Losses losses = ComputeLosses(in, LossSums(in), config.entropy_coefficient(), config);
    EXPECT_NEAR(losses.policy.item<double>(), expected.policy, 1e-10);
    EXPECT_NEAR(losses.value.item<double>(), expected.value, 1e-10);
    EXPECT_NEAR(losses.entropy.item<double>(), expected.entropy, 1e-10);
    EXPECT_NEAR(losses.clip_fraction.item<double>(), expected.clip_fraction, 1e-10);
    EXPECT_NEAR(losses.total.item<double>(), expected.policy + 0.7 * expected.value - 0.03 * expected.entropy, 1e-10);
    EXPECT_GT(expected.clip_fraction, 0) << "the inputs should meet the clip";
  }
}

TEST(Losses, GradientIsTheFormulasDerivative) {
  torch::manual_seed(2);
  const v1::LearnerConfig config = Config();
  for (const Values& values : {Values{}, {2, 0, true}, {2, 7}}) {
    LossInputs in = RandomInputs(4, 3, values);
    const auto total = [&] {
      const LiteralLosses r = LiteralLossesOf(in, config);
      return r.policy + config.value_coefficient() * r.value - config.entropy_coefficient() * r.entropy;
    };
    ComputeLosses(in, LossSums(in), config.entropy_coefficient(), config).total.backward();
    for (torch::Tensor* const input : {&in.log_prob, &in.critic, &in.entropy}) {
      const std::vector<double> gradient = Numbers(input->grad());
      torch::NoGradGuard no_grad;
      double* const numbers = input->data_ptr<double>();
      for (size_t i = 0; i < gradient.size(); ++i) {
        constexpr double kStep = 1e-6;
        const double before = numbers[i];
        numbers[i] = before + kStep;
        const double above = total();
        numbers[i] = before - kStep;
        const double below = total();
        numbers[i] = before;
        EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-6);
      }
    }
  }
}

TEST(Losses, InvalidStepsDoNotMatter) {
  torch::manual_seed(3);
  LossInputs in = RandomInputs(6, 4);
  const double was = ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config()).total.item<double>();
  const torch::Tensor invalid = in.valid.logical_not();
  for (torch::Tensor* const input :
       {&in.log_prob, &in.entropy, &in.critic, &in.value, &in.behaviour_value, &in.target, &in.advantage}) {
    torch::Tensor here = invalid;
    while (here.dim() < input->dim()) here = here.unsqueeze(-1);
    *input = torch::where(here, input->detach() + 5, input->detach());
  }
  EXPECT_EQ(ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config()).total.item<double>(), was);
}

TEST(Losses, AnInvalidStepMayHoldAnything) {
  torch::manual_seed(6);
  LossInputs in = RandomInputs(6, 4);
  const double was = ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config()).total.item<double>();
  const torch::Tensor invalid = in.valid.logical_not();
  in.target = in.target.masked_fill(invalid.unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
  in.advantage = in.advantage.masked_fill(invalid, std::numeric_limits<double>::infinity());
  EXPECT_EQ(ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config()).total.item<double>(), was);
}

TEST(Losses, OfTwoHalvesAddUpToThoseOfTheWhole) {
  torch::manual_seed(11);
  const LossInputs whole = RandomInputs(5, 6, {.heads = 2, .bins = 7});
  const auto half = [&](int64_t begin, int64_t end) {
    LossInputs part;
    part.code = whole.code;
    for (const auto member : {&LossInputs::log_prob, &LossInputs::entropy, &LossInputs::critic, &LossInputs::value,
                              &LossInputs::proximal_log_prob, &LossInputs::behaviour_value, &LossInputs::target,
                              &LossInputs::advantage, &LossInputs::valid}) {
      part.*member = (whole.*member).detach().slice(1, begin, end);
    }
    return part;
  };
  const LossInputs a = half(0, 2), b = half(2, 6);
  const torch::Tensor sums = LossSums(a) + LossSums(b);
  const Losses all = ComputeLosses(whole, LossSums(whole), Config().entropy_coefficient(), Config()),
               one = ComputeLosses(a, sums, Config().entropy_coefficient(), Config()),
               other = ComputeLosses(b, sums, Config().entropy_coefficient(), Config());
  for (const auto member : {&Losses::total, &Losses::policy, &Losses::value, &Losses::entropy, &Losses::clip_fraction,
                            &Losses::mean_value, &Losses::mean_target, &Losses::mean_square_target,
                            &Losses::mean_square_error, &Losses::head_targets, &Losses::head_square_targets}) {
    EXPECT_TRUE(torch::allclose(one.*member + other.*member, all.*member, 0, 1e-10));
  }
}

TEST(Losses, StayFiniteWhereTheRatioWouldOverflow) {
  torch::manual_seed(7);
  LossInputs in = RandomInputs(4, 3);
  in.proximal_log_prob = torch::full({4, 3}, -1000.0, torch::kFloat64);
  EXPECT_EQ(ImportanceRatio(in.log_prob, in.proximal_log_prob).max().item<double>(), std::exp(std::log(20.0)));
  const Losses losses = ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config());
  EXPECT_TRUE(std::isfinite(losses.total.item<double>()));
  losses.total.backward();
  EXPECT_EQ(in.log_prob.grad().abs().sum().item<double>(), 0);
}

TEST(Losses, NoValidStepIsNoLossAndNoGradient) {
  torch::manual_seed(4);
  LossInputs in = RandomInputs(3, 2);
  in.valid = torch::zeros({3, 2}, torch::kBool);
  const Losses losses = ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config());
  EXPECT_EQ(losses.total.item<double>(), 0);
  losses.total.backward();
  EXPECT_EQ(in.critic.grad().abs().sum().item<double>(), 0);
  EXPECT_EQ(in.log_prob.grad().abs().sum().item<double>(), 0);
}

TEST(Losses, AdvantagesThatHardlyDifferAreNotBlownUp) {
  LossInputs in = RandomInputs(2, 2);
  in.valid = torch::ones({2, 2}, torch::kBool);
  in.log_prob = in.proximal_log_prob.clone().requires_grad_();
  in.advantage = torch::tensor({{1.0, 1.0}, {1.0, 1.000004}}, torch::kFloat64);
  ComputeLosses(in, LossSums(in), Config().entropy_coefficient(), Config()).policy.backward();
  // Divided by 1e-3, not by their own deviation of 1.7e-6: 3e-6 / 1e-3 / 4 steps.
  EXPECT_NEAR(in.log_prob.grad()[1][1].item<double>(), -3e-6 / 1e-3 / 4, 1e-9);

  v1::LearnerConfig config = Config();
  config.set_min_advantage_deviation(0.5);
  in.log_prob.mutable_grad().zero_();
  ComputeLosses(in, LossSums(in), config.entropy_coefficient(), config).policy.backward();
  EXPECT_NEAR(in.log_prob.grad()[1][1].item<double>(), -3e-6 / 0.5 / 4, 1e-12);
}

}  // namespace
}  // namespace sibyl::learner
