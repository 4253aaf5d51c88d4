#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sibyl::cli {

// A flag of a command: "--run_dir DIR", or "--resume" where `value` is empty.
struct Flag {
  std::string name;   // without the dashes
  std::string value;  // what it takes, for messages
};

// What stood behind a command. A flag may stand anywhere, as "--name value" or "--name=value", and may be repeated;
// behind a "--" everything is positional.
struct Arguments {
  std::vector<std::string> positional;
  std::map<std::string, std::vector<std::string>> flags;

  bool Has(const std::string& name) const { return flags.contains(name); }
  // The last value of a flag, or `otherwise`.
  std::string Value(const std::string& name, const std::string& otherwise = "") const;
  std::vector<std::string> Values(const std::string& name) const;
};

// InvalidArgument names what is not understood, and the flags there are.
absl::StatusOr<Arguments> ParseArguments(absl::string_view command, absl::Span<const Flag> flags,
                                         absl::Span<const std::string> arguments);

}  // namespace sibyl::cli
