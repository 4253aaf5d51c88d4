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
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/random.h"
#include "common/runtime/files.h"
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
  --actions random|FILE   random: drawn from the seed. FILE: an action a line, as an index, or as the
                          numbers of its parts. Default random.
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

// Actions one after another, as ActionSpec lays them out.
absl::StatusOr<std::string> ReadActions(const std::string& path, const v1::ActionSpec& spec) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  std::string actions;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    const auto wrong = [&](const std::string& must) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " line ", number, ": action `", absl::StripAsciiWhitespace(line), "` is not ", must));
    };
    if (static_cast<int>(words.size()) != ActionNumbers(spec)) {
      return wrong(absl::StrCat(ActionNumbers(spec), " numbers, separated by blanks"));
    }
    for (size_t i = 0; i < words.size(); ++i) {
      if (spec.has_box()) {
        const float low = spec.box().low(static_cast<int>(i)), high = spec.box().high(static_cast<int>(i));
        float value = 0;
        if (!absl::SimpleAtof(words[i], &value) || !(value >= low && value <= high)) {
          return wrong(absl::StrCat("a number from ", low, " to ", high));
        }
        AppendTo(&actions, value);
        continue;
      }
      const int choices = spec.discrete().parts(static_cast<int>(i)).choices_size();
      int64_t choice = -1;
      if (!absl::SimpleAtoi(words[i], &choice) || choice < 0 || choice >= choices) {
        return wrong(absl::StrCat("a number from 0 to ", choices - 1));
      }
      AppendTo(&actions, static_cast<uint16_t>(choice));
    }
  }
  return actions;
}

absl::StatusOr<std::string> Actions(const Options& options, const v1::ActionSpec& spec) {
  const size_t bytes = ActionBytes(spec);
  if (options.actions == "random") {
    if (!options.steps.has_value()) {
      return absl::InvalidArgumentError("--steps is missing; with random actions it says when to stop");
    }
    Random random(Mix64(options.seed));
    std::string actions(*options.steps * bytes, '\0');
    for (size_t i = 0; i < *options.steps; ++i) RandomAction(spec, random, &actions[i * bytes]);
    return actions;
  }
  SIBYL_ASSIGN_OR_RETURN(std::string actions, ReadActions(options.actions, spec));
  if (options.steps.has_value()) {
    if (*options.steps > actions.size() / bytes) {
      return absl::InvalidArgumentError(absl::StrCat("--steps is ", *options.steps, ", but ", options.actions,
                                                     " holds ", actions.size() / bytes, " actions"));
    }
    actions.resize(*options.steps * bytes);
  }
  return actions;
}

// The double whose shortest text is the float's: -0.01 rather than -0.009999999776482582.
double Shortest(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = value;
  std::from_chars(text, end, result);
  return result;
}

// An action as JSON: an index, or a list of the numbers where there is not exactly one choice.
nlohmann::ordered_json ActionJson(const v1::ActionSpec& spec, const char* action) {
  if (!spec.has_box() && ActionNumbers(spec) == 1) return EntryOf<uint16_t>(action, 0);
  nlohmann::ordered_json numbers = nlohmann::ordered_json::array();
  for (int i = 0; i < ActionNumbers(spec); ++i) {
    if (spec.has_box()) {
      numbers.push_back(Shortest(EntryOf<float>(action, i)));
    } else {
      numbers.push_back(EntryOf<uint16_t>(action, i));
    }
  }
  return numbers;
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

absl::Status Save(const Options& options, const v1::EnvironmentSpec& spec, const std::string& actions,
                  const Columns& columns) {
  const int64_t steps = static_cast<int64_t>(actions.size() / ActionBytes(spec.action()));
  std::vector<NamedArray> arrays;
  for (int i = 0; i < spec.observation_size(); ++i) {
    const v1::TensorSpec& array = spec.observation(i);
    std::vector<int64_t> shape = {steps + 1};
    shape.insert(shape.end(), array.shape().begin(), array.shape().end());
    arrays.push_back({array.name(), TypeOf(array.dtype()), std::move(shape), columns.observation[i]});
  }
  std::vector<int64_t> action_shape = {steps};
  std::string numbers = actions;
  if (!spec.action().has_box()) {
    numbers.clear();
    for (size_t i = 0; i < CountIn<uint16_t>(actions); ++i) AppendTo<int64_t>(&numbers, EntryOf<uint16_t>(actions, i));
  }
  if (spec.action().has_box() || ActionNumbers(spec.action()) > 1) action_shape.push_back(ActionNumbers(spec.action()));
  arrays.push_back(
      {"action", spec.action().has_box() ? ArrayType::kFloat32 : ArrayType::kInt64, std::move(action_shape), numbers});
  arrays.push_back({"reward", ArrayType::kFloat32, {steps}, BytesOf(columns.reward)});
  arrays.push_back({"terminated", ArrayType::kBool, {steps}, BytesOf(columns.terminated)});
  arrays.push_back({"truncated", ArrayType::kBool, {steps}, BytesOf(columns.truncated)});
  return WriteSafetensors(options.save, arrays, {{"environment", spec.name()}, {"seed", absl::StrCat(options.seed)}});
}

absl::Status Rollout(const Options& options, Environment& environment, const std::string& actions, std::ostream& out) {
  const v1::ActionSpec& action_spec = environment.spec().action();
  const size_t action_bytes = ActionBytes(action_spec), steps = actions.size() / action_bytes;
  Columns columns(environment.spec(), steps, !options.save.empty());
  uint64_t seed = options.seed;
  SIBYL_RETURN_IF_ERROR(environment.Reset(seed, columns.Row(0)));
  for (size_t step = 0; step < steps; ++step) {
    SIBYL_ASSIGN_OR_RETURN(const StepResult result,
                           environment.Step(ActionView(&actions[step * action_bytes]), columns.Row(step + 1)));
    const nlohmann::ordered_json line = {{"step", step},
                                         {"action", ActionJson(action_spec, &actions[step * action_bytes])},
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
  const auto actions = Actions(*options, spec->action());
  if (!actions.ok()) return Fail(actions.status(), 2, errors);
  if (const absl::Status status = CheckSave(options->save); !status.ok()) return Fail(status, 2, errors);
  const auto environment = MakeEnvironment(options->environment, environment_options);
  if (!environment.ok()) return Fail(environment.status(), 1, errors);
  const absl::Status status = Rollout(*options, **environment, *actions, out);
  return status.ok() ? 0 : Fail(status, 1, errors);
}

int RolloutMain(absl::Span<const std::string> arguments) { return RunRollout(arguments, std::cout, std::cerr); }

}  // namespace sibyl
