#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/judges/congestion.h"
#include "annotator/judges/judge.h"
#include "annotator/judges/server_api.h"
#include "common/mutex.h"
#include "common/runtime/worker.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// Limits of the judge's patience with a server; tests make them smaller.
struct OpenAiPatience {
  absl::Duration first_wait = absl::Milliseconds(500);  // before a retry, and before a silent server is probed again
  absl::Duration longest_wait = absl::Seconds(30);
  absl::Duration longest_retry_after = absl::Minutes(5);  // what a server may ask for
  int failures_to_open = 5;                               // in a row, before the server is left alone
  // Queries refused in a row, with no answer between them, before the server is left alone: it is the server that is
  // wrong then, not the queries.
  int refusals_to_open = 5;
  // Tries of a query that fails while other queries or probes are answered; then it ends as FAILED.
  int most_tries = 8;
  // Tries of a query whose answer comes back empty; then it is UNPARSABLE.
  int most_empty_answers = 3;
};

// A judge behind any OpenAI-compatible server. One thread drives all requests. The thread first probes, with a small
// real request, what the server understands. It waits for an absent server and keeps the queries.
//
// A refused query (400, 413, 422) ends as FAILED. When `refusals_to_open` queries in a row are refused, the judge warns
// and sends nothing but a probe, and one query after each probe, with growing pauses until the server answers a query.
class OpenAiJudge : public Judge {
 public:
  // An LLM that reads a prompt (ChatServer). Errors name the field or the prompt's file and line. The server need not
  // be there.
  static absl::StatusOr<std::unique_ptr<OpenAiJudge>> ByPrompt(const v1::OpenAiConfig& config, const Host& host,
                                                               const OpenAiPatience& patience = {});
  // Likeness of embeddings (EmbeddingServer).
  static absl::StatusOr<std::unique_ptr<OpenAiJudge>> BySimilarity(const v1::OpenAiConfig& config, const Host& host,
                                                                   const OpenAiPatience& patience = {});
  ~OpenAiJudge() override;

  std::string name() const override { return api_->name(); }
  std::string prompt() const override { return api_->prompt(); }
  std::string sampling() const override { return api_->sampling(); }
  std::string Rendered(const v1::Query& query) const override { return api_->Rendered(query); }
  absl::Status Check(const v1::Query& query) const override { return api_->Check(query); }
  int capacity() const override { return static_cast<int>(config_.max_in_flight()); }
  void Answer(const v1::Query& query, std::function<void(Verdict)> done) override;

 private:
  struct Task;
  struct Request;
  struct Gauges;
  struct Curl;

  static absl::StatusOr<std::unique_ptr<OpenAiJudge>> Make(const v1::OpenAiConfig& config,
                                                           std::unique_ptr<ServerApi> api, const Host& host,
                                                           const OpenAiPatience& patience);
  OpenAiJudge(const v1::OpenAiConfig& config, std::unique_ptr<ServerApi> api, const Host& host,
              const OpenAiPatience& patience);
  absl::Status Drive(const std::stop_token& stop);
  // Starts what may be started now.
  void StartRequests();
  void Send(std::unique_ptr<Task> task, std::string body);
  // A request has ended.
  void Complete(Request& request, int curl_code);
  void CompleteProbe(Request& request, long status);
  void Retry(std::unique_ptr<Task> task, absl::Time now);
  // Every query is refused: the server is left alone.
  bool RefusesAll() const { return refusals_ >= patience_.refusals_to_open; }
  // Says in the log, once for each new reason, what the judge waits for; "" when it waits no more.
  void SayWaiting(const std::string& reason);
  void UpdateGauges(absl::Time now);
  // The first `limit` bytes, without the key, as UTF-8.
  std::string Presentable(const std::string& text, size_t limit) const;
  // The server's address without a password in it.
  std::string ShownUrl() const;

  const v1::OpenAiConfig config_;
  const std::unique_ptr<ServerApi> api_;
  const OpenAiPatience patience_;
  const std::string key_;
  Clock& clock_;
  std::unique_ptr<Gauges> gauges_;
  std::unique_ptr<Curl> curl_;

  // The driving thread's.
  std::vector<std::unique_ptr<Task>> tasks_;            // wait to be sent, oldest first
  std::map<void*, std::unique_ptr<Request>> requests_;  // in flight, by curl handle
  ConcurrencyLimit limit_;
  RetryBudget budget_;
  CircuitBreaker breaker_;
  bool probing_ = false;
  absl::Time pause_until_ = absl::InfinitePast();  // a Retry-After
  absl::Time next_event_ = absl::InfiniteFuture();
  uint64_t answers_ = 0;  // to queries and probes
  int refusals_ = 0;      // in a row
  std::string found_;     // what the last usable probe found
  std::string waiting_for_;

  Mutex mutex_;
  std::vector<std::unique_ptr<Task>> incoming_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Heartbeat> heartbeat_;
  Worker worker_;  // last: uses all of the above
};

}  // namespace sibyl::annotator
