#include "policy/gru.h"

namespace sibyl {

GruImpl::GruImpl(int64_t input_size, int64_t state_size) {
  input_gates_ = register_module("input_gates", torch::nn::Linear(input_size, 3 * state_size));
  state_gates_ = register_module("state_gates", torch::nn::Linear(state_size, 3 * state_size));
  torch::NoGradGuard no_grad;
  for (auto& layer : {input_gates_, state_gates_}) {
    for (torch::Tensor& gate : layer->weight.chunk(3)) torch::nn::init::orthogonal_(gate);
    layer->bias.zero_();
  }
}

torch::Tensor GruImpl::forward(const torch::Tensor& input, const torch::Tensor& first, const torch::Tensor& state) {
  const int64_t steps = input.size(0);
  const std::vector<torch::Tensor> input_gates = input_gates_(input).unbind(0);
  const std::vector<torch::Tensor> keep = first.logical_not().to(input.dtype()).unsqueeze(-1).unbind(0);
  const torch::Tensor weight = state_gates_->weight.t();
  torch::Tensor h = state;
  std::vector<torch::Tensor> states;
  states.reserve(steps);
  for (int64_t t = 0; t < steps; ++t) {
    h = h * keep[t];
    const auto from_input = input_gates[t].chunk(3, -1);
    const auto from_state = torch::addmm(state_gates_->bias, h, weight).chunk(3, -1);
    const torch::Tensor reset = torch::sigmoid(from_input[0] + from_state[0]);
    const torch::Tensor update = torch::sigmoid(from_input[1] + from_state[1]);
    const torch::Tensor candidate = torch::tanh(torch::addcmul(from_input[2], reset, from_state[2]));
    h = torch::lerp(candidate, h, update);
    states.push_back(h);
  }
  return torch::stack(states);
}

}  // namespace sibyl
