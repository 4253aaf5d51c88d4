#pragma once

#include "common/action_spec.h"
#include "common/tensor_spec.h"
#include "policy/observation_tensor.h"
#include "policy/policy.h"
#include "policy/torch.h"

namespace sibyl {

inline v1::PolicyConfig PolicyOf(v1::PolicyKind kind) {
  v1::PolicyConfig config;
  config.set_kind(kind);
  return config;
}

// Specs of the environments that the networks are made for, without the environments.
inline v1::EnvironmentSpec MinigridSpec() {
  v1::EnvironmentSpec spec;
  spec.set_name("minigrid/Test");
  *spec.add_observation() = MakeTensorSpec("image", v1::DTYPE_UINT8, {7, 7, 3});
  *spec.add_observation() = MakeTensorSpec("direction", v1::DTYPE_INT64, {});
  *spec.mutable_action() = OneOf({"left", "right", "forward", "pickup", "drop", "toggle", "done"});
  return spec;
}

inline v1::EnvironmentSpec NetHackSpec(int actions = 23) {
  v1::EnvironmentSpec spec;
  spec.set_name("nethack/Test");
  *spec.add_observation() = MakeTensorSpec("chars", v1::DTYPE_UINT8, {21, 79});
  *spec.add_observation() = MakeTensorSpec("colors", v1::DTYPE_UINT8, {21, 79});
  *spec.add_observation() = MakeTensorSpec("blstats", v1::DTYPE_INT64, {27});
  *spec.add_observation() = MakeTensorSpec("message", v1::DTYPE_UINT8, {256});
  std::vector<std::string> names;
  for (int i = 0; i < actions; ++i) names.push_back("action " + std::to_string(i));
  *spec.mutable_action() = OneOf(names);
  return spec;
}

// Observations [T, B, ...] in the ranges that the environments show, from LibTorch's default generator.
inline Observations RandomObservations(const v1::EnvironmentSpec& spec, int64_t T, int64_t B) {
  Observations observations;
  for (const auto& array : spec.observation()) {
    const std::vector<int64_t> shape = BatchedShape(array, {T, B});
    const auto integers = [&](int64_t below) {
      return torch::randint(below, shape, torch::TensorOptions(ToScalarType(array.dtype())));
    };
    const std::string& name = array.name();
    if (name == "image") {
      observations.push_back(
          torch::stack(
              {torch::randint(11, {T, B, 7, 7}), torch::randint(6, {T, B, 7, 7}), torch::randint(3, {T, B, 7, 7})}, -1)
              .to(torch::kUInt8));
    } else if (name == "direction") {
      observations.push_back(integers(4));
    } else if (name == "chars") {
      // As on a map: mostly unlit, then floor, then anything.
      const torch::Tensor kind = torch::rand(shape), any = (integers(95) + 32).to(torch::kUInt8);
      observations.push_back(any.masked_fill(kind.lt(0.9), '.').masked_fill(kind.lt(0.7), ' '));
    } else if (name == "colors") {
      observations.push_back(integers(16).masked_fill(torch::rand(shape).lt(0.9), 7));
    } else if (name == "blstats") {
      torch::Tensor status = integers(1000);
      status.select(-1, 0).remainder_(79);
      status.select(-1, 1).remainder_(21);
      observations.push_back(status);
    } else {
      observations.push_back(integers(100));
    }
  }
  return observations;
}

// [T, B] bool, true at about one place in `every`.
inline torch::Tensor RandomFlags(int64_t T, int64_t B, int64_t every) { return torch::randint(every, {T, B}).eq(0); }

}  // namespace sibyl
