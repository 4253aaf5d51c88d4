#include "annotator/chat_server.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sibyl::annotator {

std::string ChatServer::sampling() const {
  return absl::StrCat("temperature=", config_.temperature(), " seed=", config_.seed(),
                      " max_tokens=", config_.max_tokens());
}

absl::Status ChatServer::Check(const v1::Query& query) const {
  if (query.kind() != prompt_.kind()) {
    return absl::InvalidArgumentError(absl::StrCat("kind is ", v1::QueryKind_Name(query.kind()), "; the prompt ",
                                                   prompt_.name(), " asks for ", v1::QueryKind_Name(prompt_.kind()),
                                                   "; give annotator.openai.prompt_file one for the other kind"));
  }
  for (const std::string& label : query.label_set()) {
    if (absl::EqualsIgnoreCase(label, "abstain")) {
      return absl::InvalidArgumentError("label_set has `abstain`, by which a judge declines; name the label otherwise");
    }
  }
  return absl::OkStatus();
}

std::string ChatServer::Request(const v1::Query& query) const {
  return ChatRequest(config_, dialect_, prompt_.Render(query), {query.label_set().begin(), query.label_set().end()});
}

ServerApi::Answer ChatServer::Read(const v1::Query& query, const std::string& body) const {
  const Completion completion = ReadCompletion(body);
  return {completion.aborted, ReadVerdict(completion, {query.label_set().begin(), query.label_set().end()})};
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
  const Completion completion = ReadCompletion(body);
  if (!ProbeBinds(dialect_, completion.content)) {
    dialect_.logprobs = false;  // on to the next constraint, with and then without
    dialect_.Next();
    return Probed::kAskAgain;
  }
  *found = absl::StrCat("constrained by ", ConstraintName(dialect_.constraint), ", log-probabilities ",
                        !dialect_.logprobs        ? "refused"
                        : completion.has_logprobs ? "given"
                                                  : "not given");
  return Probed::kUsable;
}

}  // namespace sibyl::annotator
