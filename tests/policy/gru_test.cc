#include "policy/gru.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/rnn.h>

#include "random_observations.h"

namespace sibyl {
namespace {

// The GRU's equations, one step after the other, for autograd to differentiate.
torch::Tensor Literal(Gru& gru, const torch::Tensor& input, const torch::Tensor& first, torch::Tensor h) {
  const auto weights = gru->named_parameters();
  const int64_t H = h.size(1);
  std::vector<torch::Tensor> states;
  for (int64_t t = 0; t < input.size(0); ++t) {
    h = torch::where(first[t].unsqueeze(1), torch::zeros_like(h), h);
    const torch::Tensor x = torch::linear(input[t], weights["input_gates.weight"], weights["input_gates.bias"]);
    const torch::Tensor s = torch::linear(h, weights["state_gates.weight"], weights["state_gates.bias"]);
    const torch::Tensor r = torch::sigmoid(x.slice(1, 0, H) + s.slice(1, 0, H));
    const torch::Tensor z = torch::sigmoid(x.slice(1, H, 2 * H) + s.slice(1, H, 2 * H));
    const torch::Tensor n = torch::tanh(x.slice(1, 2 * H) + r * s.slice(1, 2 * H));
    h = (1 - z) * n + z * h;
    states.push_back(h);
  }
  return torch::stack(states);
}

Gru MakeGru(int64_t inputs, int64_t states) {
  Gru gru(inputs, states);
  torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : gru->parameters()) parameter.normal_(0, 0.4);
  return gru;
}

TEST(Gru, IsTheLiteralStepByStepOneWithResets) {
  torch::manual_seed(1);
  for (const auto& [T, B] : {std::pair(1, 1), {5, 3}, {32, 8}}) {
    Gru gru = MakeGru(6, 10);
    const torch::Tensor input = torch::randn({T, B, 6}), first = RandomFlags(T, B, 4), state = torch::randn({B, 10});
    EXPECT_TRUE(torch::allclose(gru(input, first, state), Literal(gru, input, first, state), 1e-5, 1e-6));
  }
}

TEST(Gru, HasTheLiteralOnesGradients) {
  torch::manual_seed(2);
  Gru gru = MakeGru(6, 10);
  torch::Tensor input = torch::randn({9, 4, 6}).requires_grad_(), state = torch::randn({4, 10}).requires_grad_();
  const torch::Tensor first = RandomFlags(9, 4, 4), weight = torch::randn({9, 4, 10});
  std::vector<torch::Tensor> wanted = gru->parameters();
  wanted.push_back(input);
  wanted.push_back(state);
  const auto actual = torch::autograd::grad({(gru(input, first, state) * weight).sum()}, wanted);
  const auto expected = torch::autograd::grad({(Literal(gru, input, first, state) * weight).sum()}, wanted);
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-4, 1e-5)) << i;
  }
}

TEST(Gru, StepsAsLibTorchsCellDoes) {
  torch::manual_seed(3);
  Gru gru = MakeGru(6, 10);
  torch::nn::GRUCell cell(6, 10);
  {
    torch::NoGradGuard no_grad;
    const auto weights = gru->named_parameters();
    cell->weight_ih.copy_(weights["input_gates.weight"]);
    cell->weight_hh.copy_(weights["state_gates.weight"]);
    cell->bias_ih.copy_(weights["input_gates.bias"]);
    cell->bias_hh.copy_(weights["state_gates.bias"]);
  }
  const torch::Tensor input = torch::randn({7, 3, 6}), first = torch::zeros({7, 3}, torch::kBool);
  torch::Tensor h = torch::randn({3, 10});
  const torch::Tensor states = gru(input, first, h);
  for (int64_t t = 0; t < 7; ++t) {
    h = cell(input[t], h);
    EXPECT_TRUE(torch::allclose(states[t], h, 1e-5, 1e-6)) << t;
  }
}

TEST(Gru, ForgetsEverythingAtAnEpisodesStart) {
  torch::manual_seed(4);
  Gru gru = MakeGru(6, 10);
  const torch::Tensor input = torch::randn({5, 2, 6});
  torch::Tensor first = torch::zeros({5, 2}, torch::kBool);
  first[2][1] = true;
  const torch::Tensor a = gru(input, first, torch::randn({2, 10})), b = gru(input, first, torch::randn({2, 10}));
  EXPECT_FALSE(torch::allclose(a[4][0], b[4][0]));
  EXPECT_TRUE(torch::equal(a.slice(0, 2).select(1, 1), b.slice(0, 2).select(1, 1)));
}

TEST(Gru, GivesTheSameWithoutGradients) {
  torch::manual_seed(5);
  Gru gru = MakeGru(6, 10);
  const torch::Tensor input = torch::randn({5, 2, 6}), first = RandomFlags(5, 2, 3), state = torch::randn({2, 10});
  const torch::Tensor with = gru(input, first, state);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(with, gru(input, first, state)));
}

}  // namespace
}  // namespace sibyl
