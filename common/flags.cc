#include "common/flags.h"

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sibyl {

std::vector<std::string> TakeOverrides(int* argc, char** argv) {
  std::vector<std::string> overrides;
  int kept = 0;
  for (int i = 0; i < *argc; ++i) {
    absl::string_view argument = argv[i];
    if (i > 0 && argument == "--") {
      while (i < *argc) argv[kept++] = argv[i++];
      break;
    }
    if (i > 0 && (argument == "--set" || argument == "-set")) {
      overrides.push_back(i + 1 < *argc ? argv[++i] : "");
    } else if (i > 0 && (absl::ConsumePrefix(&argument, "--set=") || absl::ConsumePrefix(&argument, "-set="))) {
      overrides.emplace_back(argument);
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  argv[kept] = nullptr;
  return overrides;
}

}  // namespace sibyl
