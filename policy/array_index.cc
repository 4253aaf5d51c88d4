#include "policy/array_index.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

std::string Describe(const v1::TensorSpec& array) {
  const std::string& name = v1::DType_Name(array.dtype());
  return absl::StrCat(absl::AsciiStrToLower(absl::StripPrefix(name, "DTYPE_")), " [",
                      absl::StrJoin(array.shape(), ", "), "]");
}

}  // namespace

absl::StatusOr<int> ArrayIndex(v1::PolicyKind network, const v1::EnvironmentSpec& spec, const std::string& name,
                               v1::DType dtype, const std::vector<uint32_t>& shape) {
  const std::string wanted = Describe(MakeTensorSpec(name, dtype, shape));
  std::string found = "no such array";
  for (int i = 0; i < spec.observation_size(); ++i) {
    const v1::TensorSpec& array = spec.observation(i);
    if (array.name() != name) continue;
    if (array.dtype() == dtype && std::equal(shape.begin(), shape.end(), array.shape().begin(), array.shape().end())) {
      return i;
    }
    found = absl::StrCat("`", name, "` ", Describe(array));
  }
  return absl::InvalidArgumentError(absl::StrCat("policy.kind is ", v1::PolicyKind_Name(network), ", which reads `",
                                                 name, "` ", wanted, ", but `", spec.name(), "` has ", found,
                                                 "; use POLICY_KIND_MLP"));
}

}  // namespace sibyl
