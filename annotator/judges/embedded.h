#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// How the server of a model that runs beside training, at host:port, is asked. Of two requests one waits at the server
// while the other is answered: they share its cache, which holds what prompts have in common. An answer may take long,
// because the model gets the least of a busy processor.
inline v1::OpenAiConfig EmbeddedServer(const v1::AnnotatorConfig& config, const std::string& address) {
  v1::OpenAiConfig server = config.openai();
  server.set_url(absl::StrCat("http://", address, "/v1"));
  server.set_max_in_flight(2);
  server.set_timeout_seconds(600);
  return server;
}

}  // namespace sibyl::annotator
