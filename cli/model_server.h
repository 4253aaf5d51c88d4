#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::cli {

// The model that runs beside training is served by a program of its own, which the annotator asks over loopback like
// any other server: sibyl-llm-server for the language model of JUDGE_KIND_EMBEDDED, and sibyl-encoder-server for the
// sentence encoder of JUDGE_KIND_SIMILARITY. With annotator.embedded.model_file sibyl-llm-server serves both kinds.

// An annotator of this experiment asks such a model.
bool AsksEmbeddedModel(const v1::Experiment& experiment);

// NotFound, with the remedy: the program, its packages or the file are not there, or the file is no model.
absl::Status CheckEmbeddedModel(const v1::Experiment& experiment, const std::string& binaries);

// What starts the server on 127.0.0.1:`port`.
std::vector<std::string> ModelServerCommand(const v1::Experiment& experiment, const std::string& binaries, int port);

}  // namespace sibyl::cli
