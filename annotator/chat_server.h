#pragma once

#include <string>

#include "annotator/chat_api.h"
#include "annotator/prompt.h"
#include "annotator/server_api.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// An LLM that reads a prompt and answers with a label.
class ChatServer : public ServerApi {
 public:
  ChatServer(const v1::OpenAiConfig& config, Prompt prompt) : config_(config), prompt_(std::move(prompt)) {}

  std::string name() const override { return "openai:" + config_.model(); }
  std::string prompt() const override { return prompt_.name(); }
  std::string sampling() const override;
  absl::Status Check(const v1::Query& query) const override;
  const char* path() const override { return "/chat/completions"; }
  std::string Request(const v1::Query& query) const override;
  bool IsAnswer(const std::string& body) const override { return ReadCompletion(body).valid; }
  Answer Read(const v1::Query& query, const std::string& body) const override;
  std::string Probe() const override { return ProbeRequest(config_, dialect_); }
  // Finds out how the server can be held to the labels.
  Probed OnProbe(long status, const std::string& body, std::string* found) override;

 private:
  const v1::OpenAiConfig config_;
  const Prompt prompt_;
  Dialect dialect_;
};

}  // namespace sibyl::annotator
