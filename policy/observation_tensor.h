#pragma once

#include <vector>

#include "policy/torch.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl {

inline torch::ScalarType ToScalarType(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_UINT8:
      return torch::kUInt8;
    case v1::DTYPE_INT16:
      return torch::kInt16;
    case v1::DTYPE_INT32:
      return torch::kInt32;
    case v1::DTYPE_INT64:
      return torch::kInt64;
    case v1::DTYPE_FLOAT32:
      return torch::kFloat32;
    default:
      TORCH_CHECK(false, "unknown dtype ", static_cast<int>(dtype));
  }
}

// `batch` followed by the array's own shape.
inline std::vector<int64_t> BatchedShape(const v1::TensorSpec& spec, std::vector<int64_t> batch) {
  batch.insert(batch.end(), spec.shape().begin(), spec.shape().end());
  return batch;
}

// A tensor of shape `batch` + the array's own over bytes that somebody else owns and that outlive it.
inline torch::Tensor ViewAsTensor(const v1::TensorSpec& spec, void* bytes, std::vector<int64_t> batch) {
  return torch::from_blob(bytes, BatchedShape(spec, std::move(batch)), ToScalarType(spec.dtype()));
}

}  // namespace sibyl
