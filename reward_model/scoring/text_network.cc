#include "reward_model/scoring/text_network.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace sibyl::reward_model {
namespace {

constexpr int64_t kBytes = 256, kEmbedding = 32, kWidth = 64, kPool = 3;
constexpr int64_t kKernels[] = {7, 7, 3, 3, 3, 3};

bool PoolsAfter(size_t convolution) { return convolution < 2 || convolution + 1 == std::size(kKernels); }

}  // namespace

torch::Tensor EncodeTexts(absl::Span<const absl::string_view> texts, int64_t length) {
  torch::Tensor encoded = torch::zeros({static_cast<int64_t>(texts.size()), length}, torch::kUInt8);
  uint8_t* row = encoded.data_ptr<uint8_t>();
  for (const absl::string_view text : texts) {
    std::copy_n(text.begin(), std::min<size_t>(text.size(), length), row);
    row += length;
  }
  return encoded;
}

TextNetwork::TextNetwork(const TextNetworkShape& shape) : dropout_(shape.dropout) {
  embedding_ = register_module("embedding", torch::nn::Embedding(kBytes, kEmbedding));
  int64_t width = kEmbedding, length = shape.text_length;
  for (size_t i = 0; i < std::size(kKernels); ++i) {
    const auto options = torch::nn::Conv1dOptions(width, kWidth, kKernels[i]).padding(kKernels[i] / 2);
    convolutions_.push_back(register_module(absl::StrCat("convolution", i + 1), torch::nn::Conv1d(options)));
    width = kWidth;
    if (PoolsAfter(i)) length /= kPool;
  }
  width *= length;
  for (size_t i = 0; i <= shape.hidden.size(); ++i) {
    const int64_t next = i < shape.hidden.size() ? shape.hidden[i] : 1;
    layers_.push_back(register_module(absl::StrCat("layer", i + 1), torch::nn::Linear(width, next)));
    width = next;
  }
}

torch::Tensor TextNetwork::Forward(const torch::Tensor& texts) {
  torch::Tensor x = embedding_(texts.to(torch::kInt64)).transpose(1, 2);  // [N, kEmbedding, text_length]
  for (size_t i = 0; i < convolutions_.size(); ++i) {
    x = torch::relu(convolutions_[i](x));
    if (PoolsAfter(i)) x = torch::max_pool1d(x, kPool);
  }
  x = x.flatten(1);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (i > 1) x = torch::dropout(x, dropout_, is_training());
    x = layers_[i](x);
    if (i + 1 < layers_.size()) x = torch::relu(x);
  }
  return x.squeeze(1);
}

}  // namespace sibyl::reward_model
