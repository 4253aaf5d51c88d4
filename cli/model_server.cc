#include "cli/model_server.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/config.h"

namespace sibyl::cli {
namespace {

constexpr char kProgram[] = "/sibyl-llm-server";

// Quoted for a shell.
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

}  // namespace

bool AsksEmbeddedModel(const v1::Experiment& experiment) {
  return AsksJudge(experiment) && experiment.annotator().judge() == v1::JUDGE_KIND_EMBEDDED;
}

absl::Status CheckEmbeddedModel(const v1::Experiment& experiment, const std::string& binaries) {
  const std::string program = binaries + kProgram;
  if (access(program.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("there is no program ", program,
                                            "; build it, or set SIBYL_BIN to the folder of Sibyl's programs"));
  }
  const std::string command = absl::StrCat(
      Quoted(program), " --describe --model=", Quoted(experiment.annotator().embedded().model_file()), " 2>&1");
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return absl::UnavailableError(absl::StrCat("cannot start ", program));
  std::string said;
  char bytes[4096];
  while (const size_t n = fread(bytes, 1, sizeof bytes, pipe)) said.append(bytes, n);
  if (pclose(pipe) == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("annotator.judge is JUDGE_KIND_EMBEDDED, and its model cannot be served: ",
                                          absl::StripAsciiWhitespace(said)));
}

std::vector<std::string> ModelServerCommand(const v1::Experiment& experiment, const std::string& binaries, int port) {
  const v1::EmbeddedConfig& config = experiment.annotator().embedded();
  return {binaries + kProgram,
          absl::StrCat("--model=", config.model_file()),
          absl::StrCat("--port=", port),
          absl::StrCat("--threads=", config.threads()),
          absl::StrCat("--nice=", config.nice()),
          absl::StrCat("--context=", config.context())};
}

}  // namespace sibyl::cli
