#include "policy/sampler.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "policy/draw.h"

namespace sibyl {

absl::Status Sampler::Draw(Policy& policy, const Observations& observations, const torch::Tensor& first,
                           const torch::Tensor& state, Sample* sample) {
  const c10::InferenceMode no_gradients;
  const PolicyOutput output = policy.Forward(observations, first, state);
  const torch::Tensor log_probs = output.logits[0].log_softmax(-1).to(torch::kCPU).contiguous();
  sample->value = output.value[0].to(torch::kCPU).contiguous();
  sample->states = output.states[0];
  const int64_t rows = log_probs.size(0);
  const int actions = static_cast<int>(log_probs.size(1));
  sample->action.resize(rows);
  sample->log_prob.resize(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const float* choices = log_probs.data_ptr<float>() + row * actions;
    const int action = DrawAction(choices, actions, random_);
    if (!std::isfinite(choices[action])) {
      return absl::InternalError(
          absl::StrCat("the policy's output is not finite: a log-probability is ", choices[action]));
    }
    sample->action[row] = static_cast<uint16_t>(action);
    sample->log_prob[row] = choices[action];
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
