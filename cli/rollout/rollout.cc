#include "cli/rollout/rollout.h"

#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "nlohmann/json.hpp"

namespace sibyl {
namespace {

constexpr char kUsage[] =
    R"(sibyl rollout ENV [--seed N] [--steps K] [--actions random|FILE] [--save FILE.safetensors]

Plays ENV and prints a line of JSON a step: step, action, reward, terminated, truncated (the flags of the environment's
Python package) and caption, which is that of the observation the action led to, the one that ends an episode included.

  --seed N                N of the first episode; episode k has N + k. Below 2^32. Default 0.
  --steps K               how many steps, over all episodes. Default: as many as FILE has actions.
  --actions random|FILE   random: drawn from the seed. FILE: an action's index a line. Default random.
  --save FILE             every observation array [K + 1, ...] under the package's name, and action, reward, terminated,
                          truncated [K]. The observation after an episode's end is the next one's first.
  --max_episode_steps M   cut episodes off after M steps. Default: the environment's own limit.
)";

struct Options {
  std::string environment;
  uint64_t seed = 0;
  std::optional<uint64_t> steps;
  std::string actions = "random";
  std::string save;
  uint32_t max_episode_steps = 0;
};

absl::Status ReadNumber(absl::string_view flag, const std::string& value, uint64_t limit, uint64_t& number) {
  if (absl::SimpleAtoi(value, &number) && number < limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is `", value, "`, must be a number from 0 to ", limit - 1));
}

absl::StatusOr<Options> Parse(absl::Span<const std::string> arguments) {
  std::map<std::string, std::string> flags;
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.rfind("--", 0) != 0) {
      if (!options.environment.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("`", argument, "` is one argument too many; the environment is `", options.environment, "`"));
      }
      options.environment = argument;
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    if (equals != std::string::npos) {
      flags[name] = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size()) {
      flags[name] = arguments[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " lacks its value"));
    }
  }
  if (options.environment.empty()) {
    return absl::InvalidArgumentError("which environment? For instance: sibyl rollout nethack/Score --steps 100");
  }
  for (const auto& [name, value] : flags) {
    uint64_t number = 0;
    if (name == "seed") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(name, value, kFirstTrainingSeed, options.seed));
    } else if (name == "steps") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(name, value, uint64_t{1} << 40, number));
      options.steps = number;
    } else if (name == "max_episode_steps") {
      SIBYL_RETURN_IF_ERROR(ReadNumber(name, value, uint64_t{1} << 31, number));
      options.max_episode_steps = static_cast<uint32_t>(number);
    } else if (name == "actions") {
      options.actions = value;
    } else if (name == "save") {
      options.save = value;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " is unknown; there are --seed, --steps, --actions, --save, --max_episode_steps"));
    }
  }
  return options;
}

absl::StatusOr<std::vector<int64_t>> ReadActions(const std::string& path, int actions) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::vector<int64_t> result;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view word = absl::StripAsciiWhitespace(line);
    if (word.empty()) continue;
    int64_t action = -1;
    if (!absl::SimpleAtoi(word, &action) || action < 0 || action >= actions) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " line ", number, ": action `", word, "` is not a number from 0 to ", actions - 1));
    }
    result.push_back(action);
  }
  return result;
}

absl::StatusOr<std::vector<int64_t>> Actions(const Options& options, int actions) {
  if (options.actions == "random") {
    if (!options.steps.has_value()) {
      return absl::InvalidArgumentError("--steps is missing; with random actions it says when to stop");
    }
    Random random(Mix64(options.seed));
    std::vector<int64_t> result(*options.steps);
    for (int64_t& action : result) action = static_cast<int64_t>(random.Below(actions));
    return result;
  }
  SIBYL_ASSIGN_OR_RETURN(std::vector<int64_t> result, ReadActions(options.actions, actions));
  if (options.steps.has_value()) {
    if (*options.steps > result.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--steps is ", *options.steps, ", but ", options.actions, " holds ", result.size(), " actions"));
    }
    result.resize(*options.steps);
  }
  return result;
}

ArrayType TypeOf(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_UINT8:
      return ArrayType::kUint8;
    case v1::DTYPE_INT16:
      return ArrayType::kInt16;
    case v1::DTYPE_INT32:
      return ArrayType::kInt32;
    case v1::DTYPE_INT64:
      return ArrayType::kInt64;
    case v1::DTYPE_FLOAT32:
      return ArrayType::kFloat32;
    default:
      std::abort();
  }
}

// What was seen: one row an observation, or a single row that is written again and again where nothing is saved.
struct Columns {
  Columns(const v1::EnvironmentSpec& spec, size_t steps, bool save) : kept(save) {
    for (const v1::TensorSpec& array : spec.observation()) {
      observation.emplace_back(Bytes(array) * (save ? steps + 1 : 1), '\0');
      row_bytes.push_back(Bytes(array));
    }
    pointers.resize(row_bytes.size());
  }
  // Where observation `row` goes.
  absl::Span<void* const> Row(size_t row) {
    for (size_t i = 0; i < row_bytes.size(); ++i) {
      pointers[i] = observation[i].data() + (kept ? row * row_bytes[i] : 0);
    }
    return pointers;
  }
  const bool kept;
  std::vector<std::string> observation;
  std::vector<size_t> row_bytes;
  std::vector<void*> pointers;
  std::vector<float> reward;
  std::vector<char> terminated, truncated;
};

template <typename T>
absl::string_view BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

absl::Status Save(const Options& options, const v1::EnvironmentSpec& spec, absl::Span<const int64_t> actions,
                  const Columns& columns) {
  const int64_t steps = static_cast<int64_t>(actions.size());
  std::vector<NamedArray> arrays;
  for (int i = 0; i < spec.observation_size(); ++i) {
    const v1::TensorSpec& array = spec.observation(i);
    std::vector<int64_t> shape = {steps + 1};
    shape.insert(shape.end(), array.shape().begin(), array.shape().end());
    arrays.push_back({array.name(), TypeOf(array.dtype()), std::move(shape), columns.observation[i]});
  }
  arrays.push_back({"action",
                    ArrayType::kInt64,
                    {steps},
                    {reinterpret_cast<const char*>(actions.data()), actions.size() * sizeof(int64_t)}});
  arrays.push_back({"reward", ArrayType::kFloat32, {steps}, BytesOf(columns.reward)});
  arrays.push_back({"terminated", ArrayType::kBool, {steps}, BytesOf(columns.terminated)});
  arrays.push_back({"truncated", ArrayType::kBool, {steps}, BytesOf(columns.truncated)});
  return WriteSafetensors(options.save, arrays, {{"environment", spec.name()}, {"seed", absl::StrCat(options.seed)}});
}

// The double whose shortest text is the float's: -0.01 rather than -0.009999999776482582.
double Shortest(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = value;
  std::from_chars(text, end, result);
  return result;
}

absl::Status Rollout(const Options& options, Environment& environment, absl::Span<const int64_t> actions,
                     std::ostream& out) {
  Columns columns(environment.spec(), actions.size(), !options.save.empty());
  uint64_t seed = options.seed;
  SIBYL_RETURN_IF_ERROR(environment.Reset(seed, columns.Row(0)));
  for (size_t step = 0; step < actions.size(); ++step) {
    SIBYL_ASSIGN_OR_RETURN(const StepResult result,
                           environment.Step(static_cast<int>(actions[step]), columns.Row(step + 1)));
    const nlohmann::ordered_json line = {{"step", step},
                                         {"action", actions[step]},
                                         {"reward", Shortest(result.reward)},
                                         {"terminated", result.package_terminated},
                                         {"truncated", result.package_truncated},
                                         {"caption", std::string(environment.Caption())}};
    // A caption may hold bytes that are not UTF-8.
    out << line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
    if (!out) return absl::UnavailableError("cannot write to standard output");
    columns.reward.push_back(result.reward);
    columns.terminated.push_back(result.package_terminated);
    columns.truncated.push_back(result.package_truncated);
    if (result.terminated || result.truncated) {
      SIBYL_RETURN_IF_ERROR(environment.Reset(++seed, columns.Row(step + 1)));
    }
  }
  out.flush();
  if (!out) return absl::UnavailableError("cannot write to standard output");
  return options.save.empty() ? absl::OkStatus() : Save(options, environment.spec(), actions, columns);
}

// Said before an hour of play, not after it.
absl::Status CheckSave(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (access(folder.c_str(), W_OK) == 0 && !std::filesystem::is_directory(path)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--save is `", path, "`, must be a file in a folder that exists and can be written to"));
}

int Fail(const absl::Status& status, int exit_status, std::ostream& errors) {
  errors << "sibyl rollout: " << status.message() << std::endl;
  return exit_status;
}

}  // namespace

int RunRollout(absl::Span<const std::string> arguments, std::ostream& out, std::ostream& errors) {
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") {
      out << kUsage;
      return 0;
    }
  }
  const absl::StatusOr<Options> options = Parse(arguments);
  if (!options.ok()) return Fail(options.status(), 2, errors);
  // As the package plays it, so that the two can be compared.
  const EnvironmentOptions environment_options = {
      .max_episode_steps = options->max_episode_steps, .all_arrays = true, .system_clock = true};
  const auto spec = FindEnvironmentSpec(options->environment, environment_options);
  if (!spec.ok()) return Fail(spec.status(), 2, errors);
  const auto actions = Actions(*options, spec->actions_size());
  if (!actions.ok()) return Fail(actions.status(), 2, errors);
  if (const absl::Status status = CheckSave(options->save); !status.ok()) return Fail(status, 2, errors);
  const auto environment = MakeEnvironment(options->environment, environment_options);
  if (!environment.ok()) return Fail(environment.status(), 1, errors);
  const absl::Status status = Rollout(*options, **environment, *actions, out);
  return status.ok() ? 0 : Fail(status, 1, errors);
}

int RolloutMain(absl::Span<const std::string> arguments) { return RunRollout(arguments, std::cout, std::cerr); }

}  // namespace sibyl
