#pragma once

#include "policy/torch.h"

namespace sibyl {

// A gated recurrent unit (Cho et al. 2014, in the form of torch::nn::GRU) over T steps with resets:
//   r = sigmoid(W_r x + b_r + U_r h + c_r), z = sigmoid(W_z x + b_z + U_z h + c_z),
//   n = tanh(W_n x + b_n + r (U_n h + c_n)), h' = (1 - z) n + z h.
// W x is one matrix product over all steps; only U h is computed step by step. The backward pass is written by hand
// (twice as fast as autograd's); its result cannot be differentiated again.
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
