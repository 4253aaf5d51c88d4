#include "learner/training/vtrace.h"

#include <gtest/gtest.h>

#include "policy/torch.h"
#include "tests/learner/literal.h"

namespace sibyl::learner {
namespace {

// Unrolls in which about one step in five ends an episode, either way; rows differ in everything.
VtraceInputs RandomInputs(int64_t T, int64_t B, double ends) {
  VtraceInputs in;
  in.ratio = torch::rand({T, B}, torch::kFloat64) * 2;
  in.reward = torch::randn({T, B}, torch::kFloat64);
  in.terminated = torch::rand({T, B}).lt(ends / 2);
  in.truncated = torch::rand({T, B}).lt(ends / 2).logical_and(in.terminated.logical_not());
  in.value = torch::randn({T + 1, B}, torch::kFloat64);
  in.final_value = torch::randn({T, B}, torch::kFloat64);
  in.gamma = 0.9;
  in.rho_bar = 1.1;
  in.c_bar = 0.8;
  return in;
}

void ExpectAsThePaperSays(const VtraceInputs& in) {
  const VtraceOutputs out = Vtrace(in);
  for (int64_t b = 0; b < in.reward.size(1); ++b) {
    const LiteralVtrace column = LiteralVtraceOf(in, b);
    for (int t = 0; t < column.T(); ++t) {
      EXPECT_NEAR(out.target[t][b].item<double>(), column.Target(t), 1e-9) << "step " << t << " of unroll " << b;
      EXPECT_NEAR(out.advantage[t][b].item<double>(), column.Advantage(t), 1e-9) << "step " << t << " of unroll " << b;
    }
  }
}

TEST(Vtrace, AgreesWithTheSumsOfThePaperWhereNothingEnds) {
  torch::manual_seed(1);
  ExpectAsThePaperSays(RandomInputs(9, 7, 0));
}

TEST(Vtrace, IsCutAtBothKindsOfEnd) {
  torch::manual_seed(2);
  for (int i = 0; i < 20; ++i) ExpectAsThePaperSays(RandomInputs(12, 6, 0.4));
}

TEST(Vtrace, UnrollsOfOneStepAndEndsAtTheLast) {
  torch::manual_seed(3);
  ExpectAsThePaperSays(RandomInputs(1, 20, 0.7));
  ExpectAsThePaperSays(RandomInputs(3, 5, 2));
}

TEST(Vtrace, AStepThatReachedItsGoalAtTheStepLimitIsTerminated) {
  torch::manual_seed(4);
  VtraceInputs in = RandomInputs(4, 1, 0);
  in.terminated[2][0] = in.truncated[2][0] = true;
  ExpectAsThePaperSays(in);
}

TEST(Vtrace, OnPolicyIsTheReturnOfTheSteps) {
  VtraceInputs in = RandomInputs(3, 1, 0);
  in.ratio = torch::ones({3, 1}, torch::kFloat64);
  in.rho_bar = in.c_bar = 1;
  in.gamma = 0.5;
  in.reward = torch::tensor({{1.0}, {2.0}, {4.0}}, torch::kFloat64);
  in.value[3][0] = 8;
  const VtraceOutputs out = Vtrace(in);
  EXPECT_NEAR(out.target[0][0].item<double>(), 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8, 1e-12);
}

TEST(Vtrace, WhatFollowsAnEndDoesNotReachWhatPrecedesIt) {
  torch::manual_seed(5);
  VtraceInputs in = RandomInputs(6, 1, 0);
  in.truncated[2][0] = true;
  const VtraceOutputs was = Vtrace(in);
  in.reward.slice(0, 3) += 100;
  in.value.slice(0, 3) += 100;
  const VtraceOutputs is = Vtrace(in);
  EXPECT_TRUE(torch::equal(was.target.slice(0, 0, 3), is.target.slice(0, 0, 3)));
  EXPECT_TRUE(torch::equal(was.advantage.slice(0, 0, 3), is.advantage.slice(0, 0, 3)));
}

TEST(Vtrace, LetsNoGradientThrough) {
  VtraceInputs in = RandomInputs(4, 2, 0.4);
  in.value.requires_grad_();
  in.ratio.requires_grad_();
  in.final_value.requires_grad_();
  const VtraceOutputs out = Vtrace(in);
  EXPECT_FALSE(out.target.requires_grad());
  EXPECT_FALSE(out.advantage.requires_grad());
}

}  // namespace
}  // namespace sibyl::learner
