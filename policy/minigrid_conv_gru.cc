#include "policy/minigrid_conv_gru.h"

#include "common/feedback.h"
#include "common/status_macros.h"
#include "policy/array_index.h"
#include "policy/autocast.h"
#include "policy/gru.h"
#include "policy/running_statistics.h"

namespace sibyl {
namespace {

constexpr int64_t kNumbers = 7 * 7 * 3, kConvolved = 64, kFeatures = 512, kState = 128, kDirections = 4;

class MinigridConvGru : public Policy {
 public:
  MinigridConvGru(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec, int64_t values, int image,
                  int direction)
      : Policy(spec), image_(image), direction_(direction) {
    conv1_ = register_module("conv1", torch::nn::Conv2d(3, 16, 3));
    conv2_ = register_module("conv2", torch::nn::Conv2d(16, 32, 3));
    conv3_ = register_module("conv3", torch::nn::Conv2d(32, kConvolved, 3));
    features_ = register_module("features", torch::nn::Linear(kConvolved + kDirections, kFeatures));
    gru_ = register_module("gru", Gru(kFeatures + FeedbackNumbers(spec), kState));
    actor_ = register_module("actor", ActionHead(kState, distribution_));
    critic_ = register_module("critic", Critic(kState, config, values));
    input_statistics_ = register_module("inputs", RunningStatistics(kNumbers, 0));
    for (torch::nn::Conv2d layer : {conv1_, conv2_, conv3_}) InitOrthogonal(*layer, std::sqrt(2));
    InitOrthogonal(*features_, std::sqrt(2));
    InitOrthogonal(*actor_, 0.25);
  }

  PolicyOutput Forward(const Observations& observations, const torch::Tensor& first,
                       const torch::Tensor& state) override {
    const int64_t T = first.size(0), B = first.size(1), N = T * B;
    torch::Tensor states;
    {
      const Autocast autocast(state.device().type(), bfloat16_);
      torch::Tensor x = conv1_(Planes(NormalisedNumbers(observations)));
      x = torch::elu(conv2_(torch::elu(x)));
      // The kernel is as large as what is left: a product with a matrix, which is the quicker of the two.
      const auto flat = [](const torch::Tensor& t) { return t.permute({0, 2, 3, 1}).flatten(1); };
      x = torch::elu(torch::linear(flat(x), flat(conv3_->weight), conv3_->bias));
      const torch::Tensor facing =
          torch::one_hot(observations[direction_].reshape({N}).clamp(0, kDirections - 1), kDirections);
      x = torch::elu(features_(torch::cat({x, facing.to(x.dtype())}, 1)));
      states = gru_(WithFeedback(x, observations).view({T, B, -1}), first, state);
    }
    return Output(states, states, observations);
  }

  int64_t state_size() const override { return kState; }

  torch::Tensor InputNumbers(const Observations& observations) const override {
    return observations[image_].reshape({-1, kNumbers}).to(torch::kFloat32);
  }

 private:
  // [N, 147] to [N, 3, 7, 7].
  static torch::Tensor Planes(const torch::Tensor& numbers) {
    return numbers.view({-1, 7, 7, 3}).permute({0, 3, 1, 2});
  }

  const int image_, direction_;  // where the arrays are
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr};
  Gru gru_{nullptr};
  torch::nn::Linear features_{nullptr};
};

}  // namespace

absl::StatusOr<std::shared_ptr<Policy>> MakeMinigridConvGru(const v1::PolicyConfig& config,
                                                            const v1::EnvironmentSpec& spec, int64_t values) {
  constexpr v1::PolicyKind kKind = v1::POLICY_KIND_MINIGRID_CONV_GRU;
  SIBYL_ASSIGN_OR_RETURN(const int image, ArrayIndex(kKind, spec, "image", v1::DTYPE_UINT8, {7, 7, 3}));
  SIBYL_ASSIGN_OR_RETURN(const int direction, ArrayIndex(kKind, spec, "direction", v1::DTYPE_INT64, {}));
  return std::make_shared<MinigridConvGru>(config, spec, values, image, direction);
}

}  // namespace sibyl
