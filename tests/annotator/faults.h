#pragma once

#include <functional>
#include <map>
#include <string>

#include "tests/annotator/fake_llm.h"

// Every way in which servers of language models are known to fail, by name.

namespace sibyl::annotator {

// What becomes of a query whose every request ends like this while the server answers all else.
enum class Fate {
  kLabelled,  // the fault costs nothing but time
  kUnparsable,
  kFailed,  // parked with its reason after a bounded number of requests
};

struct Fault {
  std::function<FakeLlm::Reply()> reply;
  Fate fate = Fate::kFailed;
};

// By the fault's name. `late`: how long a late answer takes.
inline std::map<std::string, Fault> Faults(absl::Duration late) {
  using Reply = FakeLlm::Reply;
  const auto body = [](const std::string& text, int status = 200) {
    return [=] { return Reply{.status = status, .body = text}; };
  };
  const std::string good = FakeLlm::Completion("Label: helpful");
  const auto message = [](const std::string& json, const std::string& end = "stop") {
    return R"({"choices":[{"message":)" + json + R"(,"finish_reason":")" + end +
           R"("}],"usage":{"prompt_tokens":20,"completion_tokens":4}})";
  };
  std::map<std::string, Fault> faults = {
      {"late", {[=] { return Reply{.body = good, .delay = late}; }, Fate::kLabelled}},
      {"thought apart",
       {body(message(R"({"content":"Label: helpful","reasoning_content":"Label: unhelpful?"})")), Fate::kLabelled}},
      {"markdown", {body(FakeLlm::Completion("```json\n{\"label\": \"helpful\"}\n```")), Fate::kLabelled}},
      {"never", {[] { return Reply{.hang = true}; }}},
      {"429", {body("{\"error\":\"slow down\"}", 429)}},
      {"500", {body("crash", 500)}},
      {"503", {body("overloaded", 503)}},
      {"garbage", {body("<html>Bad gateway</html>")}},
      {"half a body", {[=] { return Reply{.body = good, .close = true}; }}},
      {"wrong JSON", {body(R"({"answer": "helpful"})")}},
      {"closed connection", {[] { return Reply{.reset = true}; }}},
      {"empty choices", {body(R"({"choices":[]})")}},
      {"400", {body("{\"error\":\"maximum context length exceeded\"}", 400)}},
      {"refusal", {body(message(R"({"content":null,"refusal":"I cannot help with that."})"))}},
      {"content filter", {body(message(R"({"content":""})", "content_filter"))}},
      {"aborted 200", {body(message(R"({"content":"Label: he"})", "abort")), Fate::kUnparsable}},
      {"null content", {body(message(R"({"content":null})")), Fate::kUnparsable}},
      {"cut-off thoughts", {body(message(R"({"content":"<think>Label: unhelpful"})", "length")), Fate::kUnparsable}},
      {"refusal in prose", {body(FakeLlm::Completion("I am sorry, I cannot judge this.")), Fate::kUnparsable}},
      {"other label", {body(FakeLlm::Completion("Label: splendid")), Fate::kUnparsable}},
  };
  return faults;
}

// Answers a caption "NAME #i" with the fault of that name, probes and other captions well.
inline FakeLlm::Handler WithFaults(std::map<std::string, Fault> faults) {
  return [faults = std::move(faults)](const FakeLlm::Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    const std::string caption = FakeLlm::Asked(call);
    const auto fault = faults.find(caption.substr(0, caption.find(" #")));
    return fault == faults.end() ? FakeLlm::Says("Label: helpful") : fault->second.reply();
  };
}

}  // namespace sibyl::annotator
