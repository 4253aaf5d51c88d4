#pragma once

#include "policy/torch.h"

namespace sibyl::learner {

struct VtraceInputs {
  torch::Tensor ratio;        // [T, B] float: pi(a|x) / mu(a|x)
  torch::Tensor reward;       // [T, B] float
  torch::Tensor terminated;   // [T, B] bool
  torch::Tensor truncated;    // [T, B] bool; ignored where terminated
  torch::Tensor value;        // [T+1, B] float: V(x_t); row T bootstraps
  torch::Tensor final_value;  // [T, B] float: V of the final observation where truncated, else ignored
  double gamma = 0.99;
  double rho_bar = 1, c_bar = 1;
};

struct VtraceOutputs {
  torch::Tensor target;     // [T, B] v_s, what the value function is trained towards
  torch::Tensor advantage;  // [T, B] rho_t (r_t + gamma v_{t+1} - V(x_t)), the policy gradient's weight
};

// V-trace (Espeholt et al. 2018, equation 1 and section 4.2) over unrolls in which episodes end. The recursion is cut
// at both kinds of end: what follows a terminated step is worth 0, what follows a truncated one is worth V of its final
// observation. No gradient flows through the result.
VtraceOutputs Vtrace(const VtraceInputs& inputs);

}  // namespace sibyl::learner
