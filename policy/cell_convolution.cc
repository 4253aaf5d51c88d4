#include "policy/cell_convolution.h"

#include <cstring>

#include "policy/autocast.h"

namespace sibyl {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kView = 7, kKernel = 3, kTaps = kKernel * kKernel, kOutputs = kView - kKernel + 1, kChannels = 16;
constexpr int64_t kRow = kTaps * kChannels;  // of the table, one for each code

// Calls visit(place, offset) for each place of a view and each cell under the kernel there: where in the table that
// cell's channels begin.
template <typename Visit>
void ForEachCell(const int64_t* view, const Visit& visit) {
  for (int64_t y = 0; y < kOutputs; ++y) {
    for (int64_t x = 0; x < kOutputs; ++x) {
      for (int64_t tap = 0; tap < kTaps; ++tap) {
        const int64_t code = view[(y + tap / kKernel) * kView + x + tap % kKernel];
        visit(y * kOutputs + x, code * kRow + tap * kChannels);
      }
    }
  }
}

class SumCells : public torch::autograd::Function<SumCells> {
 public:
  // table [codes, kRow], bias [kChannels], code [N, 7, 7]. Returns [N, 5, 5, kChannels].
  static Tensor forward(AutogradContext* context, const Tensor& table, const Tensor& bias, const Tensor& code) {
    context->save_for_backward({code});
    context->saved_data["codes"] = table.size(0);
    const int64_t N = code.size(0);
    const Tensor output = bias.expand({N, kOutputs, kOutputs, kChannels}).contiguous();
    const float* const rows = table.data_ptr<float>();
    for (int64_t n = 0; n < N; ++n) {
      float* const places = output.data_ptr<float>() + n * kOutputs * kOutputs * kChannels;
      ForEachCell(code.data_ptr<int64_t>() + n * kView * kView, [&](int64_t place, int64_t offset) {
        float* __restrict const out = places + place * kChannels;
        const float* __restrict const in = rows + offset;
        for (int64_t o = 0; o < kChannels; ++o) out[o] += in[o];
      });
    }
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor code = context->get_saved_variables()[0];
    const Tensor by_output = gradients[0].contiguous();
    const Tensor by_table = torch::zeros({context->saved_data["codes"].toInt(), kRow}, by_output.options());
    float* const rows = by_table.data_ptr<float>();
    for (int64_t n = 0; n < code.size(0); ++n) {
      const float* const places = by_output.data_ptr<float>() + n * kOutputs * kOutputs * kChannels;
      ForEachCell(code.data_ptr<int64_t>() + n * kView * kView, [&](int64_t place, int64_t offset) {
        const float* __restrict const in = places + place * kChannels;
        float* __restrict const sum = rows + offset;
        for (int64_t o = 0; o < kChannels; ++o) sum[o] += in[o];
      });
    }
    return {by_table, by_output.sum({0, 1, 2}), Tensor()};
  }
};

}  // namespace

Tensor ConvolveCells(const Tensor& cells, const Tensor& weight, const Tensor& bias, const Tensor& code) {
  const Autocast full_precision(weight.device().type(), false);
  const Tensor by_channel = weight.permute({1, 2, 3, 0}).reshape({cells.size(1), kRow});
  return SumCells::apply(cells.matmul(by_channel), bias, code.contiguous()).permute({0, 3, 1, 2});
}

}  // namespace sibyl
