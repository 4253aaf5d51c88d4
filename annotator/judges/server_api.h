#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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
  // How far the asking of a query has come. A query may take several requests: a model reasons before its verdict, or
  // is asked a second time.
  struct Progress {
    int requests = 0;  // that were answered
    std::string said;  // what the model has written so far; a further request may show it
    std::string raw;   // Verdict.raw so far
    // Of the requests so far.
    uint64_t prompt_tokens = 0;
    uint64_t completion_tokens = 0;
    // Where the query is put to a vote: the votes that are in. The rest but the tokens is of the present vote.
    std::vector<Verdict> votes;
  };
  // The body of the query's next request.
  virtual std::string Request(const v1::Query& query, const Progress& progress) const = 0;
  struct Answer {
    bool valid = true;   // false: the body does not belong to this API at all, and the rest says nothing
    bool empty = false;  // it was broken off, or says nothing: worth another try
    // The query needs another request, made with this; `verdict` is not set then.
    std::optional<Progress> next;
    Verdict verdict;  // with the tokens of all requests
  };
  // Reads a body that came with status 200.
  virtual Answer Read(const v1::Query& query, const Progress& progress, const std::string& body) const = 0;
  // A request was refused with `body`. True where the next one will be another: what the server refuses by name is left
  // out of it, or renamed. Says so in the log.
  virtual bool Adapt(const std::string& request, const std::string& body) = 0;

  // A small request that shows what the server understands.
  virtual std::string Probe() const = 0;
  // Whether a body that came with status 200 to a probe belongs to this API at all.
  virtual bool IsAnswer(const std::string& body) const = 0;
  enum class Probed { kUsable, kAskAgain, kRefused };
  // The outcome of a probe; status 200 comes with a body that IsAnswer. kAskAgain: another Probe tells more. kUsable:
  // `found` is what the log should say.
  virtual Probed OnProbe(long status, const std::string& body, std::string* found) = 0;
};

}  // namespace sibyl::annotator
