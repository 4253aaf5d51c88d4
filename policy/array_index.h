#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sibyl/v1/experiment.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// Where in the spec the array is that a network reads. InvalidArgument: there is none of that name, or it has another
// type or shape; the message names the network, the array, what it is and what it should be.
absl::StatusOr<int> ArrayIndex(v1::PolicyKind network, const v1::EnvironmentSpec& spec, const std::string& name,
                               v1::DType dtype, const std::vector<uint32_t>& shape);

}  // namespace sibyl
