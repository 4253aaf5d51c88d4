#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "annotator/judges/endpoint_options.h"
#include "annotator/judges/judge.h"
#include "annotator/judges/quota.h"
#include "annotator/judges/server_api.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/runtime/worker.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// Limits of the judge's patience with a server; tests make them smaller.
struct OpenAiPatience {
  absl::Duration first_wait = absl::Milliseconds(500);  // before a retry, and before a silent server is probed again
  absl::Duration longest_wait = absl::Seconds(30);      // before a query that fails is tried again
  // Between two probes of a server that is away. Short, so that a server that is back is used soon.
  absl::Duration longest_probe_wait = absl::Seconds(5);
  absl::Duration longest_retry_after = absl::Minutes(5);  // what a server may ask for
  // A server whose account has no money left is probed after this, and after twice as long each time up to the longest.
  absl::Duration first_quota_wait = absl::Minutes(1);
  absl::Duration longest_quota_wait = absl::Minutes(15);
  int failures_to_open = 5;  // in a row, before the server is left alone
  // Queries refused in a row, with no answer between them, before the server is left alone: it is the server that is
  // wrong then, not the queries.
  int refusals_to_open = 5;
  // Tries of a query that fails while the server answers others; then it ends as FAILED.
  int most_tries = 5;
  // The same for 429, which a server also gives when it has too much of other queries.
  int most_rate_limited = 30;
  // Tries of a query whose answer comes back empty; then it is UNPARSABLE.
  int most_empty_answers = 3;
};

// A judge behind OpenAI-compatible servers of one model. One thread drives all requests. Each server is first probed,
// with a small real request, for what it understands. Queries are kept while no server answers.
//
// Whose fault a failure is (5xx, a timeout, a broken answer): a query whose request failed is a *suspect* until the
// server next answers something. If it answers another query or a probe, the failure was the query's: it waits, holds
// up nobody, and ends as FAILED after `most_tries`. If a probe fails, the server is away and the query is as before.
//
// A refused query (400, 413, 422) ends as FAILED. When `refusals_to_open` queries in a row are refused, the judge warns
// and sends nothing but a probe, and one query after each probe, with growing pauses until the server answers a query;
// queries that are refused meanwhile are kept.
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
  // It queues them itself, so that one that waits for another try takes nobody's place.
  int capacity() const override { return 1'000'000; }
  void Answer(const v1::Query& query, std::function<void(Verdict)> done) override;
  void Written() override;
  void StopAsking() override;
  std::string waits_for() const override;
  void Report(JudgeReports reports, const std::string& served, const std::vector<Spent>& today) override;

 private:
  struct Task;
  struct Request;
  struct Endpoint;
  struct Gauges;
  struct Curl;
  // Makes the requests of one server; the configuration has this server's model.
  using MakeApi = std::function<std::unique_ptr<ServerApi>(const v1::OpenAiConfig& config)>;
  // More urgent ones first, then older ones.
  using Place = std::pair<double, uint64_t>;

  static absl::StatusOr<std::unique_ptr<OpenAiJudge>> Make(const v1::OpenAiConfig& config, const MakeApi& make_api,
                                                           const Host& host, const OpenAiPatience& patience);
  OpenAiJudge(const v1::OpenAiConfig& config, std::vector<EndpointOptions> endpoints, const MakeApi& make_api,
              const Host& host, const OpenAiPatience& patience);
  absl::Status Drive(const std::stop_token& stop);
  void TakeIncoming();
  // Starts what may be started now.
  void StartRequests();
  void StartProbes(Endpoint& endpoint, absl::Time now);
  // The server that the next query goes to, if one may be asked now; else notes when one may be.
  Endpoint* Choose(absl::Time now);
  std::unique_ptr<Task> NextTask(const Endpoint& endpoint);
  Usage Expected(const Endpoint& endpoint) const;
  // Another query at that server would cost more than is left of the day's money.
  bool IsSpent(Quota& quota, const Endpoint& endpoint, absl::Time now) const;
  void Send(Endpoint& endpoint, std::unique_ptr<Task> task, std::string body);
  // What all requests have in common.
  void PrepareRequest(Request& request, const std::string& url) const;
  // A request has ended.
  void Complete(Request& request, int curl_code);
  void CompleteProbe(Endpoint& endpoint, Request& request, long status);
  // Asks what the server says of its models.
  void AskModels(Endpoint& endpoint);
  void CompleteModels(Endpoint& endpoint, const std::string& body);
  // The server answered: what failed there before is its queries' own fault.
  void ChargeSuspects(Endpoint& endpoint, absl::Time now);
  // The server is away: what failed there is not its queries' fault.
  void AcquitSuspects(Endpoint& endpoint);
  void PutBack(std::unique_ptr<Task> task);
  void PutOff(std::unique_ptr<Task> task, absl::Time now);
  void End(std::unique_ptr<Task> task, Verdict verdict);
  void Fail(std::unique_ptr<Task> task, const std::string& reason);
  // Every query is refused: the server is left alone.
  bool RefusesAll(const Endpoint& endpoint) const;
  // Says in the log, once for each new reason, what is waited for; "" when it is waited for no more.
  void SayWaiting(Endpoint& endpoint, const std::string& reason);
  void UpdateGauges(absl::Time now);
  // The first `limit` bytes, without the keys, as UTF-8.
  std::string Presentable(const std::string& text, size_t limit) const;

  const v1::OpenAiConfig config_;
  const OpenAiPatience patience_;
  const std::unique_ptr<ServerApi> api_;  // the configured model's: names and prompts
  Clock& clock_;
  std::unique_ptr<Gauges> gauges_;
  std::unique_ptr<Curl> curl_;

  // The driving thread's.
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  Quota quota_;                                               // of all servers together
  std::map<Place, std::unique_ptr<Task>> ready_;              // may be sent
  std::multimap<absl::Time, std::unique_ptr<Task>> put_off_;  // wait for their next try, until then
  std::map<void*, std::unique_ptr<Request>> requests_;        // in flight, by curl handle
  absl::Time next_event_ = absl::InfiniteFuture();
  uint64_t next_number_ = 0;
  uint64_t answers_ = 0;  // to queries and probes
  Random random_;
  // Means over recent requests, for what is expected of the next one.
  double prompt_tokens_, completion_tokens_;
  bool over_budget_ = false;    // the money of all servers together is spent, and the log says so
  std::string held_by_limits_;  // the limits a minute hold queries back

  const int most_unwritten_;
  std::atomic<int> unwritten_ = 0;  // verdicts that were given and may be lost

  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Task>> incoming_ ABSL_GUARDED_BY(mutex_);
  bool stop_asking_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_asking_ = false, verdicts_are_written_ = false;  // the driving thread's copies
  std::string waits_for_ ABSL_GUARDED_BY(mutex_);
  JudgeReports reports_ ABSL_GUARDED_BY(mutex_);
  std::string served_ ABSL_GUARDED_BY(mutex_);  // what the queries' identity holds of the server
  std::vector<Spent> spent_before_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Heartbeat> heartbeat_;
  Worker worker_;  // last: uses all of the above
};

}  // namespace sibyl::annotator
