#pragma once

#include <string>
#include <vector>

#include "annotator/judge.h"
#include "annotator/prompt.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// How a server is told that an answer must be one of the labels.
enum class Constraint {
  kJsonSchema,  // response_format json_schema: OpenAI, llama.cpp, vLLM
  kChoice,      // structured_outputs choice: vLLM from 0.12 on
  kNone,        // only the prompt says it
};
const char* ConstraintName(Constraint constraint);

// What a server understands of the chat-completions API; found out with probes.
struct Dialect {
  Constraint constraint = Constraint::kJsonSchema;
  bool logprobs = true;
  // "max_completion_tokens" instead of "max_tokens".
  bool new_max_tokens = false;

  // The next one to try when this one is not understood; false: there is none.
  bool Next();
};

// The body of a request, as JSON.
std::string ChatRequest(const v1::OpenAiConfig& config, const Dialect& dialect,
                        const std::vector<ChatMessage>& messages, const std::vector<std::string>& label_set);

// A small request whose natural answer breaks the constraint, and whether an answer shows that the constraint binds.
std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect);
bool ProbeBinds(const Dialect& dialect, const std::string& content);

// What a server sent with status 200.
struct Completion {
  bool valid = false;    // it is a chat completion
  bool aborted = false;  // it is empty or was broken off: worth another try
  bool refused = false;  // a filter kept the answer back
  std::string content;
  std::string finish_reason;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
  bool has_logprobs = false;
  struct Token {
    std::string text;
    double logprob = 0;
    std::vector<std::pair<std::string, double>> top;  // text and log-probability of the likeliest
  };
  std::vector<Token> tokens;  // with logprobs: the content's, in order
};
Completion ReadCompletion(const std::string& body);

// What the completion says about a query with these labels: a soft label where it has log-probabilities, else a hard
// one.
Verdict ReadVerdict(const Completion& completion, const std::vector<std::string>& label_set);

}  // namespace sibyl::annotator
