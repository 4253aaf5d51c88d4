#pragma once

#include <string>

#include "absl/status/status.h"
#include "annotator/judges/judge.h"

namespace sibyl::annotator {

// The requests to an OpenAI-compatible server, and what its answers mean. OpenAiJudge does the talking, on one thread.
class ServerApi {
 public:
  virtual ~ServerApi() = default;

  // The judge's own (judge.h). Any thread.
  virtual std::string name() const = 0;
  virtual std::string prompt() const = 0;
  virtual std::string sampling() const = 0;
  virtual std::string Rendered(const v1::Query& query) const = 0;
  virtual absl::Status Check(const v1::Query& query) const = 0;

  // Path of the requests, below the server's base address.
  virtual const char* path() const = 0;
  // A request's body.
  virtual std::string Request(const v1::Query& query) const = 0;
  // Whether a body that came with status 200 belongs to this API at all.
  virtual bool IsAnswer(const std::string& body) const = 0;
  struct Answer {
    bool empty = false;  // it was broken off, or says nothing: worth another try
    Verdict verdict;
  };
  virtual Answer Read(const v1::Query& query, const std::string& body) const = 0;

  // A small request that shows what the server understands.
  virtual std::string Probe() const = 0;
  enum class Probed { kUsable, kAskAgain, kRefused };
  // The outcome of a probe; status 200 comes with an answer (IsAnswer). kAskAgain: another Probe tells more. kUsable:
  // `found` is what the log should say.
  virtual Probed OnProbe(long status, const std::string& body, std::string* found) = 0;
};

}  // namespace sibyl::annotator
