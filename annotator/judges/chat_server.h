#pragma once

#include <string>
#include <utility>
#include <vector>

#include "annotator/judges/chat_api.h"
#include "annotator/judges/prompt.h"
#include "annotator/judges/server_api.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// An LLM that reads a prompt and answers in the form that the query asks for. The prompt says how it is asked:
// - kFree: one request. The server is held to the form of the whole answer.
// - kDirect: one request for one token, whose alternatives give the label's probability. Where the server gives no
//   log-probabilities, it is held to the labels instead.
// - kReasoned: a request for the reasoning, then one as for kDirect.
// An answer that is unparsable or abstains gets one request more: the model is shown what it wrote and asked for the
// label alone, or, where it was cut off while it thought, asked anew with four times the tokens.
//
// With annotator.openai.votes above 1 a query is asked so again and again, and MergeVotes makes its verdict.
class ChatServer : public ServerApi {
 public:
  ChatServer(const v1::OpenAiConfig& config, Prompt prompt) : config_(config), prompt_(std::move(prompt)) {}

  std::string name() const override { return "openai:" + config_.model(); }
  std::string prompt() const override { return prompt_.name(); }
  std::string sampling() const override;
  std::string Rendered(const v1::Query& query) const override;
  absl::Status Check(const v1::Query& query) const override;
  const char* path() const override { return prompt_.is_text() ? "/completions" : "/chat/completions"; }
  std::string Request(const v1::Query& query, const Progress& progress) const override;
  Answer Read(const v1::Query& query, const Progress& progress, const std::string& body) const override;
  bool Adapt(const std::string& request, const std::string& body) override;
  bool IsAnswer(const std::string& body) const override { return ReadCompletion(body, config_.max_tokens()).valid; }
  std::string Probe() const override { return ProbeRequest(config_, dialect_, prompt_.is_text()); }
  // Finds out how the server can be held to a form, and whether it gives log-probabilities.
  Probed OnProbe(long status, const std::string& body, std::string* found) override;

 private:
  // Read for one vote.
  Answer ReadVote(const v1::Query& query, const Progress& progress, const std::string& body) const;

  enum class Step { kWhole, kReasoning, kVerdict, kSecondTry };

  Step StepOf(const Progress& progress) const;
  // Tokens that the next answer may have.
  uint32_t MaxTokens(const v1::Query& query, const Progress& progress) const;
  // Whether a second try of a prompt that is asked in one request shows the model its first answer.
  bool ShowsWhatItSaid(const v1::Query& query, const Progress& progress) const;
  Ask AskFor(const v1::Query& query, const Progress& progress) const;

  const v1::OpenAiConfig config_;
  const Prompt prompt_;
  Dialect dialect_;
  bool gives_logprobs_ = true;  // as the last probe showed
};

}  // namespace sibyl::annotator
