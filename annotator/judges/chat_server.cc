#include "annotator/judges/chat_server.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sibyl::annotator {

std::string ChatServer::sampling() const {
  return absl::StrCat("temperature=", config_.temperature(), " seed=", config_.seed(),
                      " max_tokens=", config_.max_tokens());
}

std::string ChatServer::Rendered(const v1::Query& query) const {
  std::string rendered;
  for (const ChatMessage& message : prompt_.Render(query)) {
    absl::StrAppend(&rendered, message.role, ":", message.content.size(), ":", message.content);
  }
  return rendered;
}

absl::Status ChatServer::Check(const v1::Query& query) const {
  if (query.kind() == prompt_.kind()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("kind is `", query.kind(), "`; the prompt ", prompt_.name(), " asks `",
                                                 prompt_.kind(),
                                                 "`; give annotator.openai.prompt_file one for the other kind"));
}

std::string ChatServer::Request(const v1::Query& query) const {
  return ChatRequest(config_, dialect_, prompt_.Render(query), FindQuestion(query.kind())->form(query));
}

ServerApi::Answer ChatServer::Read(const v1::Query& query, const std::string& body) const {
  const Completion completion = Completed(body);
  Answer answer;
  answer.empty = completion.aborted;
  answer.verdict.raw = completion.content;
  answer.verdict.prompt_tokens = completion.prompt_tokens;
  answer.verdict.completion_tokens = completion.completion_tokens;
  if (completion.refused) return answer;  // FAILED
  const Reading reading = FindQuestion(query.kind())->read(query, completion.reply);
  answer.verdict.outcome = reading.outcome;
  answer.verdict.answer = reading.answer;
  return answer;
}

ServerApi::Probed ChatServer::OnProbe(long status, const std::string& body, std::string* found) {
  if (status != 200) {
    // Not understood. The name of max_tokens is told from the error's text; all else is tried in turn.
    if (!dialect_.new_max_tokens && absl::StrContains(body, "max_completion_tokens")) {
      dialect_.new_max_tokens = true;
      return Probed::kAskAgain;
    }
    if (dialect_.Next()) return Probed::kAskAgain;
    dialect_ = Dialect();
    return Probed::kRefused;
  }
  const Completion completion = Completed(body);
  if (!ProbeBinds(dialect_, completion.content)) {
    dialect_.logprobs = false;  // on to the next constraint, with and then without
    dialect_.Next();
    return Probed::kAskAgain;
  }
  *found = absl::StrCat("constrained by ", ConstraintName(dialect_.constraint), ", log-probabilities ",
                        !dialect_.logprobs                 ? "refused"
                        : !completion.reply.tokens.empty() ? "given"
                                                           : "not given");
  return Probed::kUsable;
}

}  // namespace sibyl::annotator
