#include "common/tensor_spec.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sibyl {

size_t ElementBytes(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_UINT8:
      return 1;
    case v1::DTYPE_INT16:
      return 2;
    case v1::DTYPE_INT32:
      return 4;
    case v1::DTYPE_INT64:
      return 8;
    case v1::DTYPE_FLOAT32:
      return 4;
    default:
      std::abort();
  }
}

size_t Elements(const v1::TensorSpec& spec) {
  size_t n = 1;
  for (uint32_t extent : spec.shape()) n *= extent;
  return n;
}

size_t Bytes(const v1::TensorSpec& spec) { return Elements(spec) * ElementBytes(spec.dtype()); }

size_t ObservationBytes(const v1::EnvironmentSpec& spec) {
  size_t bytes = 0;
  for (const auto& field : spec.observation()) bytes += Bytes(field);
  return bytes;
}

v1::TensorSpec MakeTensorSpec(std::string name, v1::DType dtype, std::vector<uint32_t> shape) {
  v1::TensorSpec spec;
  spec.set_name(std::move(name));
  spec.set_dtype(dtype);
  for (uint32_t extent : shape) spec.add_shape(extent);
  return spec;
}

namespace {

std::string Describe(const v1::TensorSpec& spec) {
  return absl::StrCat(spec.name(), " ", v1::DType_Name(spec.dtype()), "[", absl::StrJoin(spec.shape(), ", "), "]");
}

template <typename List>
std::string ListDifference(const char* what, const List& actual, const List& expected) {
  if (actual.size() != expected.size()) {
    return absl::StrCat("it has ", actual.size(), " ", what, "s, not ", expected.size());
  }
  for (int i = 0; i < actual.size(); ++i) {
    if (actual[i] != expected[i]) return absl::StrCat(what, " ", i, " is `", actual[i], "`, not `", expected[i], "`");
  }
  return "";
}

std::string ActionDifference(const v1::ActionSpec& actual, const v1::ActionSpec& expected) {
  if (actual.kind_case() != expected.kind_case()) {
    const auto form = [](const v1::ActionSpec& spec) { return spec.has_box() ? "real numbers" : "choices"; };
    return absl::StrCat("its actions are ", form(actual), ", not ", form(expected));
  }
  const v1::ActionSpec::Discrete &a = actual.discrete(), &e = expected.discrete();
  if (a.parts_size() != e.parts_size()) {
    return absl::StrCat("its actions have ", a.parts_size(), " parts, not ", e.parts_size());
  }
  for (int i = 0; i < a.parts_size(); ++i) {
    if (auto d = ListDifference("action", a.parts(i).choices(), e.parts(i).choices()); !d.empty()) return d;
  }
  if (auto d = ListDifference("lower bound", actual.box().low(), expected.box().low()); !d.empty()) return d;
  if (auto d = ListDifference("upper bound", actual.box().high(), expected.box().high()); !d.empty()) return d;
  if (actual.mask() != expected.mask()) {
    return absl::StrCat("the mask of its actions is `", actual.mask(), "`, not `", expected.mask(), "`");
  }
  return "";
}

}  // namespace

std::string Difference(const v1::EnvironmentSpec& actual, const v1::EnvironmentSpec& expected) {
  if (actual.name() != expected.name()) {
    return absl::StrCat("it is `", actual.name(), "`, not `", expected.name(), "`");
  }
  if (actual.observation_size() != expected.observation_size()) {
    return absl::StrCat("it has ", actual.observation_size(), " observation arrays, not ", expected.observation_size());
  }
  for (int i = 0; i < actual.observation_size(); ++i) {
    const std::string a = Describe(actual.observation(i)), e = Describe(expected.observation(i));
    if (a != e) return absl::StrCat("observation array ", i, " is `", a, "`, not `", e, "`");
  }
  if (auto d = ActionDifference(actual.action(), expected.action()); !d.empty()) return d;
  if (auto d = ListDifference("figure", actual.figures(), expected.figures()); !d.empty()) return d;
  if (actual.max_episode_steps() != expected.max_episode_steps()) {
    return absl::StrCat("its step limit is ", actual.max_episode_steps(), ", not ", expected.max_episode_steps());
  }
  return "";
}

}  // namespace sibyl
