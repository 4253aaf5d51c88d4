#pragma once

#include <torch/types.h>

#include <string>

#include "absl/status/statusor.h"

namespace sibyl {

// The device that a configuration names: "cpu", "cuda" or "cuda:<index>". LibTorch's CUDA part is loaded here, on
// request, so that one program serves machines with and without a GPU; call it before any CUDA tensor is made.
// FailedPrecondition: no CUDA library (naming it and the cause), or no such device.
absl::StatusOr<torch::Device> FindDevice(const std::string& name);

}  // namespace sibyl
