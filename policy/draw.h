#pragma once

#include <cmath>

#include "common/random.h"

namespace sibyl {

// An action drawn from log-probabilities [actions]; where they are not finite, one whose log-probability is not either.
inline int DrawAction(const float* log_probs, int actions, Random& random) {
  float rest = random.Uniform();
  int action = 0;
  for (int a = 0; a < actions; ++a) {
    const float probability = std::exp(log_probs[a]);
    if (probability > 0) action = a;
    rest -= probability;
    if (rest < 0) break;
  }
  return action;
}

// A number drawn from the standard normal distribution (Box & Muller 1958).
inline float DrawNormal(Random& random) {
  const float radius = std::sqrt(-2 * std::log(1 - random.Uniform()));
  return radius * std::cos(2 * static_cast<float>(M_PI) * random.Uniform());
}

}  // namespace sibyl
