#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "policy/policy.h"
#include "policy/torch.h"

namespace sibyl {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

// A safetensors file in memory; the tensors own their bytes.
struct TensorFile {
  std::string path;
  NamedTensors tensors;
  std::map<std::string, std::string> metadata;
};

// The bytes of a safetensors file of contiguous CPU tensors. Errors of SafetensorsBytes, which name `name`.
absl::StatusOr<std::string> EncodeTensors(const std::string& name, const NamedTensors& tensors,
                                          const std::map<std::string, std::string>& metadata);

// Writes contiguous CPU tensors, durably and atomically (WriteSafetensors).
absl::Status WriteTensors(const std::string& path, const NamedTensors& tensors,
                          const std::map<std::string, std::string>& metadata);
// Errors of ReadSafetensors.
absl::StatusOr<TensorFile> ReadTensors(const std::string& path);

// Copies the file's tensors into those of the same names. FailedPrecondition, before anything is copied: one is
// missing, has another shape or type, or (with `all`) the file holds more than `into`; the message names the file, the
// first such tensor and both shapes.
absl::Status CopyTensors(const TensorFile& file, const NamedTensors& into, bool all);

// Copies the weights "policy/..." of a learner's checkpoint into a policy.
absl::Status LoadPolicy(const std::string& path, Policy& policy);

// A policy's weights as bytes, and back: a safetensors file of the same names as in a checkpoint. Errors of decoding
// are those of ParseSafetensors and CopyTensors, and name `source`.
absl::StatusOr<std::string> EncodePolicy(const Policy& policy);
absl::Status DecodePolicy(const std::string& source, std::string bytes, Policy& policy);

}  // namespace sibyl
