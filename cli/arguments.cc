#include "cli/arguments.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sibyl::cli {

std::string Arguments::Value(const std::string& name, const std::string& otherwise) const {
  const auto found = flags.find(name);
  return found == flags.end() ? otherwise : found->second.back();
}

std::vector<std::string> Arguments::Values(const std::string& name) const {
  const auto found = flags.find(name);
  return found == flags.end() ? std::vector<std::string>() : found->second;
}

absl::StatusOr<Arguments> ParseArguments(absl::string_view command, absl::Span<const Flag> flags,
                                         absl::Span<const std::string> arguments) {
  Arguments parsed;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      parsed.positional.insert(parsed.positional.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (!absl::StartsWith(argument, "-") || argument == "-") {
      parsed.positional.push_back(argument);
      continue;
    }
    const size_t begin = absl::StartsWith(argument, "--") ? 2 : 1;
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(begin, equals == std::string::npos ? equals : equals - begin);
    const auto flag = std::find_if(flags.begin(), flags.end(), [&](const Flag& f) { return f.name == name; });
    if (flag == flags.end()) {
      const auto shown = [](std::string* out, const Flag& f) {
        absl::StrAppend(out, "--", f.name, f.value.empty() ? "" : " ", f.value);
      };
      return absl::InvalidArgumentError(absl::StrCat("there is no flag `", argument, "`; `", command, "` takes ",
                                                     flags.empty() ? "none" : absl::StrJoin(flags, ", ", shown)));
    }
    std::string value;
    if (flag->value.empty()) {
      if (equals != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("--", name, " takes no value, but is given as `", argument, "`"));
      }
    } else if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    }
    if (!flag->value.empty() && value.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value: --", name, " ", flag->value));
    }
    parsed.flags[name].push_back(value);
  }
  return parsed;
}

}  // namespace sibyl::cli
