#include "policy/weights.h"

#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/safetensors.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

struct TypePair {
  torch::ScalarType torch;
  ArrayType file;
};
constexpr TypePair kTypes[] = {{torch::kUInt8, ArrayType::kUint8}, {torch::kBool, ArrayType::kBool},
                               {torch::kInt16, ArrayType::kInt16}, {torch::kInt32, ArrayType::kInt32},
                               {torch::kInt64, ArrayType::kInt64}, {torch::kFloat32, ArrayType::kFloat32}};

std::string Shape(const torch::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.scalar_type() << tensor.sizes();
  return text.str();
}

// Views of the tensors.
absl::StatusOr<std::vector<NamedArray>> Arrays(const NamedTensors& tensors) {
  std::vector<NamedArray> arrays;
  for (const auto& [name, tensor] : tensors) {
    NamedArray array;
    array.name = name;
    const torch::ScalarType scalar_type = tensor.scalar_type();
    const auto* type =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypePair& t) { return t.torch == scalar_type; });
    if (type == std::end(kTypes) || !tensor.is_contiguous() || !tensor.is_cpu()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " (", Shape(tensor), ") cannot be written"));
    }
    array.type = type->file;
    array.shape.assign(tensor.sizes().begin(), tensor.sizes().end());
    array.bytes = absl::string_view(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
    arrays.push_back(std::move(array));
  }
  return arrays;
}

TensorFile Copies(const std::string& path, const Safetensors& file) {
  TensorFile tensors;
  tensors.path = path;
  tensors.metadata = file.metadata;
  for (const NamedArray& array : file.arrays) {
    const auto* type =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypePair& t) { return t.file == array.type; });
    torch::Tensor tensor = torch::empty(array.shape, type->torch);
    std::copy(array.bytes.begin(), array.bytes.end(), static_cast<char*>(tensor.data_ptr()));
    tensors.tensors.emplace_back(array.name, std::move(tensor));
  }
  return tensors;
}

// The policy's weights under their names in a checkpoint.
NamedTensors WeightsOf(const Policy& policy) {
  NamedTensors weights;
  for (const auto& parameter : policy.named_parameters()) {
    weights.emplace_back("policy/" + parameter.key(), parameter.value().detach());
  }
  return weights;
}

}  // namespace

absl::StatusOr<std::string> EncodeTensors(const std::string& name, const NamedTensors& tensors,
                                          const std::map<std::string, std::string>& metadata) {
  SIBYL_ASSIGN_OR_RETURN(const std::vector<NamedArray> arrays, Arrays(tensors));
  return SafetensorsBytes(name, arrays, metadata);
}

absl::Status WriteTensors(const std::string& path, const NamedTensors& tensors,
                          const std::map<std::string, std::string>& metadata) {
  SIBYL_ASSIGN_OR_RETURN(const std::vector<NamedArray> arrays, Arrays(tensors));
  return WriteSafetensors(path, arrays, metadata);
}

absl::StatusOr<TensorFile> ReadTensors(const std::string& path) {
  SIBYL_ASSIGN_OR_RETURN(const Safetensors file, ReadSafetensors(path));
  return Copies(path, file);
}

absl::Status CopyTensors(const TensorFile& file, const NamedTensors& into, bool all) {
  std::map<std::string, torch::Tensor> found(file.tensors.begin(), file.tensors.end());
  for (const auto& [name, tensor] : into) {
    const auto it = found.find(name);
    if (it == found.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat(file.path, " is of another network: it has no tensor ", name, " ", Shape(tensor)));
    }
    if (it->second.sizes() != tensor.sizes() || it->second.scalar_type() != tensor.scalar_type()) {
      return absl::FailedPreconditionError(absl::StrCat(file.path, " is of another network: its ", name, " is ",
                                                        Shape(it->second), ", this network's is ", Shape(tensor)));
    }
  }
  if (all && found.size() != into.size()) {
    for (const auto& [name, tensor] : into) found.erase(name);
    return absl::FailedPreconditionError(absl::StrCat(file.path, " is of another network: this one has no tensor ",
                                                      found.begin()->first, " ", Shape(found.begin()->second)));
  }
  torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : into) tensor.detach().copy_(found.at(name));
  return absl::OkStatus();
}

absl::Status LoadPolicy(const std::string& path, Policy& policy) {
  SIBYL_ASSIGN_OR_RETURN(const TensorFile file, ReadTensors(path));
  return CopyTensors(file, WeightsOf(policy), /*all=*/false);
}

absl::StatusOr<std::string> EncodePolicy(const Policy& policy) {
  NamedTensors weights = WeightsOf(policy);
  for (auto& [name, tensor] : weights) tensor = tensor.to(torch::kCPU).contiguous();
  SIBYL_ASSIGN_OR_RETURN(const std::vector<NamedArray> arrays, Arrays(weights));
  return SafetensorsBytes("weights", arrays);
}

absl::Status DecodePolicy(const std::string& source, std::string bytes, Policy& policy) {
  SIBYL_ASSIGN_OR_RETURN(const Safetensors file, ParseSafetensors(source, std::move(bytes)));
  return CopyTensors(Copies(source, file), WeightsOf(policy), /*all=*/false);
}

}  // namespace sibyl
