#include "policy/mlp.h"

#include "common/tensor_spec.h"

namespace sibyl {
namespace {

class Mlp : public Policy {
 public:
  Mlp(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec, int64_t values) : Policy(spec) {
    int64_t inputs = 0;
    for (const auto& array : spec.observation()) {
      inputs += static_cast<int64_t>(Elements(array));
      integer_.push_back(array.dtype() != v1::DTYPE_FLOAT32);
    }
    hidden1_ = register_module("hidden1", torch::nn::Linear(inputs, 128));
    hidden2_ = register_module("hidden2", torch::nn::Linear(128, 128));
    actor_ = register_module("actor", ActionHead(128, distribution_));
    critic_ = register_module("critic", Critic(128, config, values));
    InitOrthogonal(*hidden1_, std::sqrt(2));
    InitOrthogonal(*hidden2_, std::sqrt(2));
    InitOrthogonal(*actor_, 0.01);
    if (config.normalise_observations()) {
      input_statistics_ = register_module("inputs", RunningStatistics(inputs, 0));
    }
  }

  PolicyOutput Forward(const Observations& observations, const torch::Tensor& first, const torch::Tensor&) override {
    const int64_t T = first.size(0), B = first.size(1);
    torch::Tensor x = torch::relu(hidden1_(NormalisedNumbers(observations)));
    x = torch::relu(hidden2_(x));
    return Output(x.view({T, B, -1}), torch::zeros({T, B, 0}, x.options()), observations);
  }

  torch::Tensor InputNumbers(const Observations& observations) const override {
    std::vector<torch::Tensor> inputs;
    for (size_t i = 0; i < observations.size(); ++i) {
      const torch::Tensor& array = observations[i];
      const torch::Tensor x = array.reshape({array.size(0) * array.size(1), -1}).to(torch::kFloat32);
      inputs.push_back(integer_[i] ? x.sign() * x.abs().log1p() : x);
    }
    return torch::cat(inputs, 1);
  }

  int64_t state_size() const override { return 0; }

 private:
  std::vector<bool> integer_;  // by array
  torch::nn::Linear hidden1_{nullptr}, hidden2_{nullptr};
};

}  // namespace

std::shared_ptr<Policy> MakeMlp(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec, int64_t values) {
  return std::make_shared<Mlp>(config, spec, values);
}

}  // namespace sibyl
