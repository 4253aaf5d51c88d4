#include "policy/sampler.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace sibyl {

absl::Status Sampler::Draw(Policy& policy, const Observations& observations, const torch::Tensor& first,
                           const torch::Tensor& state, Sample* sample) {
  const c10::InferenceMode no_gradients;
  const PolicyOutput output = policy.Forward(observations, first, state);
  const ActionDistribution& distribution = policy.distribution();
  const torch::Tensor choices = distribution.ForDrawing(output.action[0]);
  sample->value = output.value[0].to(torch::kCPU).contiguous();
  sample->states = output.states[0];
  const int64_t rows = choices.size(0);
  sample->action.resize(rows * distribution.action_bytes());
  sample->log_prob.resize(rows);
  for (int64_t row = 0; row < rows; ++row) {
    sample->log_prob[row] = distribution.Draw(choices.data_ptr<float>() + row * choices.size(1), random_,
                                              &sample->action[row * distribution.action_bytes()]);
    if (!std::isfinite(sample->log_prob[row])) {
      return absl::InternalError(
          absl::StrCat("the policy's output is not finite: a log-probability is ", sample->log_prob[row]));
    }
  }
  const float* values = sample->value.data_ptr<float>();
  for (int64_t i = 0; i < sample->value.numel(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::InternalError(absl::StrCat("the policy's output is not finite: a value is ", values[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace sibyl
