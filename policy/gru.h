#pragma once

#include <torch/torch.h>

namespace sibyl {

// A gated recurrent unit (Cho et al. 2014, in the form of torch::nn::GRU) over T steps with resets. The input's gates
// are one matrix product over all steps; only the state's are computed step by step.
class GruImpl : public torch::nn::Module {
 public:
  GruImpl(int64_t input_size, int64_t state_size);

  // input [T, B, I], first [T, B] bool (the state is zeroed before that step), state [B, H]. Returns [T, B, H].
  torch::Tensor forward(const torch::Tensor& input, const torch::Tensor& first, const torch::Tensor& state);

 private:
  torch::nn::Linear input_gates_{nullptr}, state_gates_{nullptr};  // to [reset, update, candidate] x H
};
TORCH_MODULE(Gru);

}  // namespace sibyl
