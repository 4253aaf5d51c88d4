#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "policy/torch.h"

namespace sibyl::reward_model {

// The first `length` bytes of each text, zeros behind a shorter one: [N, length] uint8.
torch::Tensor EncodeTexts(absl::Span<const absl::string_view> texts, int64_t length);

struct TextNetworkShape {
  int64_t text_length = 256;    // at least kMinTextLength
  std::vector<int64_t> hidden;  // widths of the layers behind the convolutions
  double dropout = 0.1;         // behind each of them but the first
};

// Three times the text is thinned out to a third.
inline constexpr int64_t kMinTextLength = 27;

// A scorer of texts by their characters, after Zhang et al. 2015 in ONI's size: embedding 32; convolutions 64 wide with
// kernels 7, 7, 3, 3, 3, 3, the largest of three taken after the first, second and last; `hidden` layers; one number.
class TextNetwork : public torch::nn::Module {
 public:
  // Weights are drawn from LibTorch's default generator.
  explicit TextNetwork(const TextNetworkShape& shape);

  // Scores [N] float of texts [N, text_length] uint8. Dropout is on in training mode only.
  torch::Tensor Forward(const torch::Tensor& texts);

 private:
  torch::nn::Embedding embedding_{nullptr};
  std::vector<torch::nn::Conv1d> convolutions_;
  std::vector<torch::nn::Linear> layers_;
  const double dropout_;
};

}  // namespace sibyl::reward_model
