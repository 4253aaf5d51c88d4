#pragma once

#include "policy/torch.h"

namespace sibyl {

// MiniGrid's first convolution, 3x3 over a view of 7x7 cells, without writing the cells out as channels: each place is
// a sum of nine rows of a table, of what a cell of each code adds in each place under the kernel. Differentiable in
// weight and bias.
//
// cells [codes, C]: the channels of a cell of each code. weight [16, C, 3, 3], bias [16], code int64 [N, 7, 7], below
// `codes`, all on the CPU. Returns [N, 16, 5, 5] in channels-last memory: conv2d over the cells' channels, up to
// rounding. Any thread.
torch::Tensor ConvolveCells(const torch::Tensor& cells, const torch::Tensor& weight, const torch::Tensor& bias,
                            const torch::Tensor& code);

}  // namespace sibyl
