#pragma once

#include <set>
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

// What a server understands of the API; found out with probes, and from what it refuses.
struct Dialect {
  Constraint constraint = Constraint::kJsonSchema;
  bool logprobs = true;
  // "max_completion_tokens" instead of "max_tokens".
  bool new_max_tokens = false;
  // Alternatives whose log-probabilities are asked for.
  int top_logprobs = 20;
  // Fields that the server refuses by name.
  std::set<std::string> left_out = {};

  // The next one to try when this one is not understood; false: there is none.
  bool Next();
  bool operator==(const Dialect&) const = default;
};

// What a request asks for.
struct Ask {
  Conversation shown;
  AnswerForm form;  // what the server is held to, where it is a chat; empty: nothing
  uint32_t max_tokens = 256;
  bool one_line = false;  // the answer ends with its line
  uint64_t vote = 0;      // added to the sampling seed
};

// The body of a request, as JSON: to /chat/completions, or to /completions where a text is shown. The members of
// config.extra_body, a JSON object, take the place of the request's own.
std::string CompletionRequest(const v1::OpenAiConfig& config, const Dialect& dialect, const Ask& ask);

// InvalidArgument where config.extra_body is neither empty nor a JSON object that leaves the prompt alone.
absl::Status CheckExtraBody(const v1::OpenAiConfig& config);

// A small request; in a chat its natural answer breaks the constraint.
std::string ProbeRequest(const v1::OpenAiConfig& config, const Dialect& dialect, bool text);
// Whether the answer to a probe shows that the constraint binds.
bool ProbeBinds(const Dialect& dialect, const std::string& answer);

// Reads an error about a request. Where it refuses some of the request's fields by name, changes the dialect so that
// the next request does without them, and gives their names back; none: it is about something else.
std::vector<std::string> LeaveOutRefused(const std::string& request, const std::string& error, Dialect* dialect);

// What a server sent with status 200.
struct Completion {
  bool valid = false;    // it is a completion
  bool aborted = false;  // it is empty or was broken off: worth another try
  bool refused = false;  // a filter or the model kept the answer back
  // What the model wrote, word for word: thinking that came inside the answer; thinking that came apart, between
  // <think> marks; a refusal's text where the model refused.
  std::string content;
  // It ended while it thought.
  bool thinks = false;
  // The answer without the thinking. `reply.cut`: the server ended it at its limit of tokens, or it ends while the
  // model thinks.
  Reply reply;
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
};
// `max_tokens`: the request's limit. An answer of that many tokens whose server names no reason for its end was cut.
Completion ReadCompletion(const std::string& body, uint32_t max_tokens);

}  // namespace sibyl::annotator
