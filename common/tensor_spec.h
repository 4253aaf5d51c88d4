#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

// Bytes of one element. Dies on DTYPE_UNSPECIFIED.
size_t ElementBytes(v1::DType dtype);

// Elements and bytes of one array, and of all arrays of one observation.
size_t Elements(const v1::TensorSpec& spec);
size_t Bytes(const v1::TensorSpec& spec);
size_t ObservationBytes(const v1::EnvironmentSpec& spec);

v1::TensorSpec MakeTensorSpec(std::string name, v1::DType dtype, std::vector<uint32_t> shape);

// The first difference between two specs in words ("action 3 is `pickup`, not `drop`"), or "" where they are equal.
std::string Difference(const v1::EnvironmentSpec& actual, const v1::EnvironmentSpec& expected);

}  // namespace sibyl
