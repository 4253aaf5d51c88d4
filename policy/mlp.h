#pragma once

#include "policy/policy.h"

namespace sibyl {

// Two hidden layers of 128 over the flattened observation, for any environment; no memory. Integers are squeezed to
// sign(x) * log(1 + |x|), so that no array, whatever its range, drowns the others. `values`: V.
std::shared_ptr<Policy> MakeMlp(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec, int64_t values);

}  // namespace sibyl
