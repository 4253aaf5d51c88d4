#include "policy/device.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "policy/torch.h"

namespace sibyl {

absl::StatusOr<torch::Device> FindDevice(const std::string& name) {
  if (name == "cpu") return torch::Device(torch::kCPU);
  constexpr char kLibrary[] = "libtorch_cuda.so";
  if (dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("learner.device is `", name, "`, but ", kLibrary,
                                                      " cannot be loaded: ", dlerror(),
                                                      "; install the full torch wheel, or set learner.device=cpu"));
  }
  try {
    const torch::Device device(name);
    torch::zeros({1}, device);
    return device;
  } catch (const std::exception& e) {
    return absl::FailedPreconditionError(
        absl::StrCat("learner.device is `", name, "`, which cannot be used: ", e.what()));
  }
}

}  // namespace sibyl
