#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// The index in spec.observation of the array that a network reads. InvalidArgument: no array has that name, or it has
// another type or shape; the message names the network, the array, and the expected and actual type and shape.
absl::StatusOr<int> ArrayIndex(v1::PolicyKind network, const v1::EnvironmentSpec& spec, const std::string& name,
                               v1::DType dtype, const std::vector<uint32_t>& shape);

}  // namespace sibyl
