#include "cli/model_server.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/config.h"

namespace sibyl::cli {
namespace {

// Quoted for a shell.
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

bool IsSimilarity(const v1::Experiment& experiment) {
  return experiment.annotator().judge() == v1::JUDGE_KIND_SIMILARITY;
}

bool AsksDefaultEncoder(const v1::Experiment& experiment) {
  return IsSimilarity(experiment) && experiment.annotator().embedded().model_file().empty();
}

// The program, and the model where it takes one.
std::vector<std::string> ProgramAndModel(const v1::Experiment& experiment, const std::string& binaries) {
  if (AsksDefaultEncoder(experiment)) return {binaries + "/sibyl-encoder-server"};
  return {binaries + "/sibyl-llm-server", absl::StrCat("--model=", experiment.annotator().embedded().model_file())};
}

}  // namespace

bool AsksEmbeddedModel(const v1::Experiment& experiment) {
  return AsksJudge(experiment) && RunsBesideTraining(experiment.annotator());
}

absl::Status CheckEmbeddedModel(const v1::Experiment& experiment, const std::string& binaries) {
  const std::vector<std::string> parts = ProgramAndModel(experiment, binaries);
  const std::string& program = parts[0];
  if (access(program.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("there is no program ", program,
                                            "; build it, or set SIBYL_BIN to the folder of Sibyl's programs"));
  }
  std::string command = Quoted(program) + " --describe";
  for (size_t i = 1; i < parts.size(); ++i) absl::StrAppend(&command, " ", Quoted(parts[i]));
  command += " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return absl::UnavailableError(absl::StrCat("cannot start ", program));
  std::string said;
  char bytes[4096];
  while (const size_t n = fread(bytes, 1, sizeof bytes, pipe)) said.append(bytes, n);
  if (pclose(pipe) == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("annotator.judge is ", v1::JudgeKind_Name(experiment.annotator().judge()),
                                          ", and its model cannot be served: ", absl::StripAsciiWhitespace(said)));
}

std::vector<std::string> ModelServerCommand(const v1::Experiment& experiment, const std::string& binaries, int port) {
  const v1::EmbeddedConfig& config = experiment.annotator().embedded();
  std::vector<std::string> command = ProgramAndModel(experiment, binaries);
  command.push_back(absl::StrCat("--port=", port));
  command.push_back(absl::StrCat("--threads=", config.threads()));
  command.push_back(absl::StrCat("--nice=", config.nice()));
  if (AsksDefaultEncoder(experiment)) return command;
  command.push_back(absl::StrCat("--context=", config.context()));
  if (IsSimilarity(experiment)) command.push_back("--embeddings");
  return command;
}

}  // namespace sibyl::cli
