#pragma once

#include <string>

#include "annotator/judges/chat_api.h"
#include "annotator/judges/prompt.h"
#include "annotator/judges/server_api.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// An LLM that reads a prompt and answers in the form that the query asks for.
class ChatServer : public ServerApi {
 public:
  ChatServer(const v1::OpenAiConfig& config, Prompt prompt) : config_(config), prompt_(std::move(prompt)) {}

  std::string name() const override { return "openai:" + config_.model(); }
  std::string prompt() const override { return prompt_.name(); }
  std::string sampling() const override;
  std::string Rendered(const v1::Query& query) const override;
  absl::Status Check(const v1::Query& query) const override;
  const char* path() const override { return "/chat/completions"; }
  std::string Request(const v1::Query& query) const override;
  bool IsAnswer(const std::string& body) const override { return Completed(body).valid; }
  Answer Read(const v1::Query& query, const std::string& body) const override;
  std::string Probe() const override { return ProbeRequest(config_, dialect_); }
  // Finds out how the server can be held to a form.
  Probed OnProbe(long status, const std::string& body, std::string* found) override;

 private:
  Completion Completed(const std::string& body) const { return ReadCompletion(body, config_.max_tokens()); }

  const v1::OpenAiConfig config_;
  const Prompt prompt_;
  Dialect dialect_;
};

}  // namespace sibyl::annotator
