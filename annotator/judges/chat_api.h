#pragma once

#include <string>
#include <vector>

#include "annotator/judges/prompt.h"
#include "annotator/questions/question.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// How a server is held to the form of an answer.
enum class Constraint {
  kJsonSchema,         // response_format json_schema: OpenAI, llama.cpp, vLLM
  kStructuredOutputs,  // structured_outputs choice or json: vLLM from 0.12 on
  kNone,               // only the prompt says it
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
                        const std::vector<ChatMessage>& messages, const AnswerForm& form);

// A small request whose natural answer breaks the constraint, and whether an answer shows that the constraint binds.
std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect);
bool ProbeBinds(const Dialect& dialect, const std::string& content);

// What a server sent with status 200.
struct Completion {
  bool valid = false;    // it is a chat completion
  bool aborted = false;  // it is empty or was broken off: worth another try
  bool refused = false;  // a filter or the model kept the answer back
  // The message word for word, thinking that came inside it included; a refusal's text where the model refused.
  std::string content;
  // The answer without the thinking. `reply.cut`: the server ended it at its limit of tokens, or it ends while the
  // model thinks.
  Reply reply;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};
// `max_tokens`: the request's limit. An answer of that many tokens whose server names no reason for its end was cut.
Completion ReadCompletion(const std::string& body, uint32_t max_tokens);

}  // namespace sibyl::annotator
