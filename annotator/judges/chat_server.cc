#include "annotator/judges/chat_server.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "annotator/judges/votes.h"
#include "annotator/questions/choice.h"
#include "common/log.h"

namespace sibyl::annotator {
namespace {

// Room for a label in a text that ends with its line.
constexpr uint32_t kVerdictTokens = 8;
// How much more a second try may take of what the first one used up by thinking.
constexpr uint32_t kMoreTokens = 4;

bool IsChoice(const v1::Query& query) { return query.grammar().has_choice(); }

// The query with the prompt's words in place of its labels.
v1::Query InWords(const v1::Query& query, const std::vector<std::string>& words) {
  v1::Query in_words = query;
  if (IsChoice(query)) {
    *in_words.mutable_grammar()->mutable_choice()->mutable_labels() = {words.begin(), words.end()};
  }
  return in_words;
}

}  // namespace

std::string ChatServer::sampling() const {
  return absl::StrCat("temperature=", config_.temperature(), " seed=", config_.seed(),
                      " max_tokens=", config_.max_tokens(),
                      config_.votes() > 1 ? absl::StrCat(" votes=", config_.votes()) : "",
                      config_.extra_body().empty() ? "" : " extra_body=", config_.extra_body());
}

std::string ChatServer::Rendered(const v1::Query& query) const {
  std::string rendered;
  const auto append = [&](const Conversation& conversation) {
    for (const ChatMessage& message : conversation.messages) {
      absl::StrAppend(&rendered, message.role, ":", message.content.size(), ":", message.content);
    }
    if (conversation.messages.empty()) absl::StrAppend(&rendered, "text:", conversation.text);
  };
  append(prompt_.Render(query));
  if (prompt_.form() == Prompt::Form::kFree) return rendered;
  absl::StrAppend(&rendered, "words:", absl::StrJoin(prompt_.Words(query), ","));
  if (prompt_.form() == Prompt::Form::kReasoned) append(prompt_.RenderReasoned(query, "{reasoning}"));
  return rendered;
}

absl::Status ChatServer::Check(const v1::Query& query) const {
  if (query.kind() == prompt_.kind()) return prompt_.Check(query);
  return absl::InvalidArgumentError(absl::StrCat("kind is `", query.kind(), "`; the prompt ", prompt_.name(), " asks `",
                                                 prompt_.kind(),
                                                 "`; give annotator.openai.prompt_file one for the other kind"));
}

ChatServer::Step ChatServer::StepOf(const Progress& progress) const {
  int step = progress.requests;
  switch (prompt_.form()) {
    case Prompt::Form::kFree:
      return step == 0 ? Step::kWhole : Step::kSecondTry;
    case Prompt::Form::kReasoned:
      if (step-- == 0) return Step::kReasoning;
      [[fallthrough]];
    case Prompt::Form::kDirect:
      break;
  }
  return step == 0 ? Step::kVerdict : Step::kSecondTry;
}

uint32_t ChatServer::MaxTokens(const v1::Query& query, const Progress& progress) const {
  switch (StepOf(progress)) {
    case Step::kWhole:
    case Step::kReasoning:
      break;
    case Step::kVerdict:
      if (gives_logprobs_) return 1;
      if (prompt_.is_text()) return kVerdictTokens;
      break;
    case Step::kSecondTry:
      if (prompt_.form() != Prompt::Form::kFree) {
        if (prompt_.is_text()) return kVerdictTokens;
      } else if (!ShowsWhatItSaid(query, progress)) {
        return config_.max_tokens() * kMoreTokens;
      }
      break;
  }
  return config_.max_tokens();
}

bool ChatServer::ShowsWhatItSaid(const v1::Query& query, const Progress& progress) const {
  return !progress.said.empty() && IsChoice(query) && !prompt_.is_text();
}

Ask ChatServer::AskFor(const v1::Query& query, const Progress& progress) const {
  const std::vector<std::string> words = prompt_.Words(query);
  const auto form = [&] { return FindQuestion(query.kind())->form(InWords(query, words)); };
  const bool reasoned = prompt_.form() == Prompt::Form::kReasoned;
  Ask ask;
  ask.max_tokens = MaxTokens(query, progress);
  ask.vote = progress.votes.size();
  switch (StepOf(progress)) {
    case Step::kWhole:
      ask.shown = prompt_.Render(query);
      ask.form = form();
      break;
    case Step::kReasoning:
      ask.shown = prompt_.Render(query);
      ask.one_line = prompt_.is_text();
      break;
    case Step::kVerdict:
      ask.shown = reasoned ? prompt_.RenderReasoned(query, progress.said) : prompt_.Render(query);
      if (gives_logprobs_) break;
      ask.one_line = prompt_.is_text();
      if (!prompt_.is_text()) ask.form = BareChoiceForm(words);
      break;
    case Step::kSecondTry:
      if (prompt_.form() != Prompt::Form::kFree) {
        ask.shown = reasoned ? prompt_.RenderReasoned(query, progress.said) : prompt_.Render(query);
        ask.form = BareChoiceForm(words);
        ask.one_line = prompt_.is_text();
        break;
      }
      ask.shown = prompt_.Render(query);
      if (!ShowsWhatItSaid(query, progress)) {
        ask.form = form();
        break;
      }
      ask.shown.messages.push_back({"assistant", progress.said});
      ask.shown.messages.push_back(
          {"user", absl::StrCat("Give your verdict alone, one of these words: ", absl::StrJoin(words, ", "), ".")});
      ask.form = BareChoiceForm(words);
      break;
  }
  return ask;
}

std::string ChatServer::Request(const v1::Query& query, const Progress& progress) const {
  return CompletionRequest(config_, dialect_, AskFor(query, progress));
}

ServerApi::Answer ChatServer::Read(const v1::Query& query, const Progress& progress, const std::string& body) const {
  Answer answer = ReadVote(query, progress, body);
  if (answer.next.has_value()) answer.next->votes = progress.votes;
  if (config_.votes() <= 1 || !answer.valid || answer.empty || answer.next.has_value()) return answer;
  Progress next;
  next.votes = progress.votes;
  next.prompt_tokens = answer.verdict.prompt_tokens;
  next.completion_tokens = answer.verdict.completion_tokens;
  next.votes.push_back(std::move(answer.verdict));
  if (next.votes.size() == config_.votes()) return {.verdict = MergeVotes(next.votes)};
  return {.next = std::move(next)};
}

ServerApi::Answer ChatServer::ReadVote(const v1::Query& query, const Progress& progress,
                                       const std::string& body) const {
  const Step step = StepOf(progress);
  const Completion completion = ReadCompletion(body, MaxTokens(query, progress));
  Answer answer;
  answer.valid = completion.valid;
  if (!answer.valid) return answer;
  // One token may be a blank, and reasoning may come to nothing; neither is broken off.
  answer.empty = completion.aborted && (step == Step::kWhole || step == Step::kReasoning);
  Progress next = progress;
  ++next.requests;
  next.prompt_tokens += completion.prompt_tokens;
  next.completion_tokens += completion.completion_tokens;
  absl::StrAppend(&next.raw, progress.requests > 0 ? "\n" : "", completion.content);

  v1::Query in_words = InWords(query, prompt_.Words(query));
  const bool direct = step == Step::kVerdict && gives_logprobs_;
  if (!completion.refused) {
    if (step == Step::kReasoning && !answer.empty) {
      next.said = completion.reply.text.empty() ? completion.content : completion.reply.text;
      answer.next = std::move(next);
      return answer;
    }
    const Reading reading =
        direct ? ReadDirect({in_words.grammar().choice().labels().begin(), in_words.grammar().choice().labels().end()},
                            completion.reply)
               : FindQuestion(query.kind())->read(in_words, completion.reply);
    const bool may_repeat = IsChoice(query) || completion.reply.cut;
    if (reading.outcome != v1::OUTCOME_ANSWERED && step != Step::kSecondTry && may_repeat && !answer.empty) {
      if (step == Step::kWhole) next.said = completion.thinks ? "" : completion.reply.text;
      answer.next = std::move(next);
      return answer;
    }
    answer.verdict.outcome = reading.outcome;
    answer.verdict.answer = reading.answer;
    if (reading.outcome == v1::OUTCOME_UNPARSABLE && completion.reply.cut && !direct) {
      answer.verdict.reason = absl::StrCat(kCutOff, " at its limit of tokens");
    }
  }
  // Else FAILED.
  answer.verdict.raw = std::move(next.raw);
  answer.verdict.prompt_tokens = next.prompt_tokens;
  answer.verdict.completion_tokens = next.completion_tokens;
  return answer;
}

bool ChatServer::Adapt(const std::string& request, const std::string& body) {
  const Dialect before = dialect_;
  const std::vector<std::string> refused = LeaveOutRefused(request, body, &dialect_);
  if (refused.empty()) return false;
  // Requests that were on their way are refused for the same reason.
  if (dialect_ == before) return true;
  spdlog::info("judge {}: the server refuses {}; requests go on without, or by another name", config_.model(),
               absl::StrJoin(refused, ", "));
  return true;
}

ServerApi::Probed ChatServer::OnProbe(long status, const std::string& body, std::string* found) {
  if (status != 200) {
    if (Adapt(Probe(), body) || dialect_.Next()) return Probed::kAskAgain;
    dialect_ = Dialect();
    return Probed::kRefused;
  }
  const Completion completion = ReadCompletion(body, config_.max_tokens());
  if (!prompt_.is_text() && !ProbeBinds(dialect_, completion.reply.text)) {
    dialect_.logprobs = false;  // on to the next constraint, with and then without
    dialect_.Next();
    return Probed::kAskAgain;
  }
  gives_logprobs_ = !completion.reply.tokens.empty();
  const char* given = gives_logprobs_ ? "given" : dialect_.logprobs ? "not given" : "refused";
  *found = absl::StrCat(prompt_.is_text() ? "plain completion" : "constrained by ",
                        prompt_.is_text() ? "" : ConstraintName(dialect_.constraint), ", log-probabilities ", given);
  if (completion.thinks) {
    absl::StrAppend(found, "; it thought until annotator.openai.max_tokens (", config_.max_tokens(),
                    ") was used up, raise that or switch its thinking off by annotator.openai.extra_body");
  }
  return Probed::kUsable;
}

}  // namespace sibyl::annotator
