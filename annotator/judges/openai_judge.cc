#include "annotator/judges/openai_judge.h"

#include <curl/curl.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "annotator/judges/chat_server.h"
#include "annotator/judges/congestion.h"
#include "annotator/judges/similarity.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

// Longer answers than this are no answers.
constexpr size_t kMaxBodyBytes = 8 << 20;
// Servers close idle connections after 5 s and more; ours are given up before that.
constexpr long kIdleSeconds = 4;
// Curl handles that are kept for the next requests.
constexpr size_t kMaxIdleHandles = 64;
// Probes of one server in flight, at most. Another one goes out while the first hangs, as a server that is back does
// not answer what it was sent before.
constexpr int kMostProbes = 12;

const char* const kResults[] = {"answered",    "empty",   "rejected",      "rate_limited", "no_quota",
                                "unavailable", "timeout", "no_connection", "unauthorized", "invalid"};
// Why nothing can be asked.
const char* const kPauses[] = {"outage", "refusals", "server_quota", "money", "limits"};

// The account behind the key has no money or quota left: asking again soon is no use.
bool SaysNoQuota(long status, const std::string& body) {
  if (status == 402) return true;
  if (status != 429 && status != 403 && status != 400) return false;
  for (const char* words : {"insufficient_quota", "billing_hard_limit", "exceeded your current quota",
                            "credit balance is too low", "billing_not_active"}) {
    if (absl::StrContains(body, words)) return true;
  }
  return false;
}

// Tokens as a body says them, whatever else it is.
std::pair<uint64_t, uint64_t> TokensOf(const std::string& body) {
  if (!absl::StrContains(body, "\"usage\"")) return {0, 0};
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("usage") || !json["usage"].is_object()) return {0, 0};
  const auto count = [&](const char* name) -> uint64_t {
    const auto it = json["usage"].find(name);
    return it != json["usage"].end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
  };
  return {count("prompt_tokens"), count("completion_tokens")};
}

// Whether a request was redirected; `url` is where it ended.
bool Redirected(CURL* easy, char** url) {
  long redirects = 0;
  curl_easy_getinfo(easy, CURLINFO_REDIRECT_COUNT, &redirects);
  curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, url);
  return redirects > 0;
}

// The model that an answer names; empty: none.
std::string ReportedModel(const std::string& body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("model") || !json["model"].is_string()) return "";
  return json["model"].get<std::string>();
}

// What a server's list of models says of one of them that an answer depends on, as canonical JSON; empty: nothing.
// Names may be paths of files, of which the folder says nothing.
std::string ModelFacts(const std::string& body, const std::string& model) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_array()) return "";
  const auto& models = json["data"];
  nlohmann::json facts;
  for (const auto& entry : models) {
    if (!entry.is_object() || (models.size() > 1 && (!entry.contains("id") || entry["id"] != model))) continue;
    for (const char* name : {"id", "root", "parent", "quantization", "dtype"}) {
      if (entry.contains(name) && entry[name].is_string()) {
        const std::string value = entry[name].get<std::string>();
        facts[name] = value.substr(value.rfind('/') + 1);
      }
    }
    if (!entry.contains("meta") || !entry["meta"].is_object()) continue;
    for (const char* name : {"size", "n_params", "ftype"}) {  // llama.cpp: bytes and weights tell the quantisation
      if (entry["meta"].contains(name)) facts[name] = entry["meta"][name];
    }
  }
  return facts.empty() ? "" : facts.dump();
}

// What a request came to.
enum class Ending {
  kAnswered,
  kEmpty,     // broken off, or without content: worth another try
  kRefused,   // 400 and the like: the same query would be refused again
  kFailed,    // the server may be away, or the query breaks it
  kOverload,  // 429: the server has too much
  kNoQuota,   // the account has no money left
};

}  // namespace

struct OpenAiJudge::Task {
  v1::Query query;
  std::function<void(Verdict)> done;
  Place place;
  ServerApi::Progress progress;
  std::unique_ptr<Backoff> backoff;  // made when it first fails
  bool retried = false;              // its next request is a retry
  int tries = 0;                     // that failed while the server answered others
  int rate_limited = 0;              // 429, while the server answered others
  int empty_answers = 0;
  uint64_t answers_seen = 0;  // answers_ when it was last rate limited
  std::string reason;         // of its last failure
  // Of all its requests.
  uint64_t prompt_tokens = 0, completion_tokens = 0;
  double cost = 0;
};

struct OpenAiJudge::Request {
  ~Request() { curl_slist_free_all(headers); }
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  Endpoint* endpoint = nullptr;
  std::unique_ptr<Task> task;  // nullptr: a probe, or the models are asked for
  bool models = false;
  int round = 0;    // a probe's
  int outages = 0;  // of its server, before it was sent
  std::string body;
  std::string response;
  absl::Time sent;
  Usage expected;
};

struct OpenAiJudge::Curl {
  Curl() : multi(curl_multi_init()) {}
  ~Curl() {
    for (CURL* easy : idle) curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
  CURL* Take() {
    if (idle.empty()) return curl_easy_init();
    CURL* easy = idle.back();
    idle.pop_back();
    return easy;
  }
  void Give(CURL* easy) {
    if (idle.size() >= kMaxIdleHandles) return curl_easy_cleanup(easy);
    curl_easy_reset(easy);
    idle.push_back(easy);
  }
  CURLM* multi;
  std::vector<CURL*> idle;
};

// One server: how hard it may be driven, and what is known of it.
struct OpenAiJudge::Endpoint {
  struct Gauges {
    Gauges(Metrics& metrics, const std::string& endpoint)
        : limit(metrics.Gauge("sibyl_annotator_concurrency_limit", "Requests that may be in flight now.",
                              {{"endpoint", endpoint}})),
          in_flight(metrics.Gauge("sibyl_annotator_judge_requests_in_flight", "Requests in flight.",
                                  {{"endpoint", endpoint}})),
          breaker(metrics.Gauge("sibyl_annotator_breaker_state", "0: closed, 1: half open (probing), 2: open.",
                                {{"endpoint", endpoint}})),
          reachable(
              metrics.Gauge("sibyl_annotator_judge_reachable",
                            "1 when the last probe or request was answered and the server does not refuse every query.",
                            {{"endpoint", endpoint}})),
          money(metrics.Gauge("sibyl_annotator_money_today", "Money that today's requests (UTC) have cost.",
                              {{"endpoint", endpoint}})) {
      for (const char* result : kResults) {
        results[result] =
            &metrics.Counter("sibyl_annotator_judge_requests_total", "Requests to the judge, by how they ended.",
                             {{"endpoint", endpoint}, {"result", result}});
      }
    }
    prometheus::Gauge& limit;
    prometheus::Gauge& in_flight;
    prometheus::Gauge& breaker;
    prometheus::Gauge& reachable;
    prometheus::Gauge& money;
    std::map<absl::string_view, prometheus::Counter*> results;
  };

  Endpoint(EndpointOptions made_from, std::unique_ptr<ServerApi> made_api, const OpenAiPatience& patience,
           Metrics& metrics)
      : options(std::move(made_from)),
        api(std::move(made_api)),
        request_url(options.url + api->path()),
        key([&] {
          const char* value = std::getenv(options.key_env.c_str());
          return std::string(absl::StripAsciiWhitespace(value == nullptr ? "" : value));
        }()),
        limit(options.max_in_flight),
        breaker(patience.failures_to_open, patience.first_wait, patience.longest_probe_wait, FreshRandom64()),
        quota_wait(patience.first_quota_wait, patience.longest_quota_wait, FreshRandom64()),
        quota(options.quota),
        gauges(metrics, options.name) {}

  const EndpointOptions options;
  const std::unique_ptr<ServerApi> api;
  const std::string request_url;
  const std::string key;
  ConcurrencyLimit limit;
  CircuitBreaker breaker;
  Backoff quota_wait;
  Quota quota;
  Gauges gauges;
  int in_flight = 0;  // queries that were sent since its last outage; older ones may hang
  int outages = 0;
  int probes = 0;  // in flight
  int round = 0;   // of probes; an answer to an older one says nothing
  absl::Time probe_sent;
  absl::Time answered_at = absl::InfinitePast();  // the last query
  absl::Time trial_at;                            // when its trial began
  absl::Time pause_until = absl::InfinitePast();  // a Retry-After
  std::vector<std::unique_ptr<Task>> suspects;
  absl::Time suspected_at;  // when the first of them failed
  int refusals = 0;         // in a row
  bool out_of_quota = false;
  bool over_budget = false;  // its own money of the day is spent, and the log says so
  double turn = 0;           // smooth weighted round robin
  std::string found;         // what the last usable probe found
  std::string model;         // as its answer names it
  bool identified = false;   // what it serves is known since its last outage
  bool unfit = false;        // it serves another model than the first server does
  std::string waiting_for;
};

struct OpenAiJudge::Gauges {
  Gauges(Metrics& metrics, double per_day)
      : retries(metrics.Counter("sibyl_annotator_judge_retries_total", "Requests sent again for the same query.")),
        seconds(metrics.Histogram("sibyl_annotator_judge_request_seconds", "Seconds from request to answer.",
                                  {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100})),
        put_off(metrics.Gauge("sibyl_annotator_put_off_queries",
                              "Queries whose last request failed and that wait for another try.")) {
    metrics.Gauge("sibyl_annotator_money_per_day", "annotator.openai.money_per_day; 0: no limit.").Set(per_day);
    for (const char* reason : kPauses) {
      paused[reason] = &metrics.Gauge("sibyl_annotator_asking_paused", "1 while no server may be asked, by the reason.",
                                      {{"reason", reason}});
    }
  }
  prometheus::Counter& retries;
  prometheus::Histogram& seconds;
  prometheus::Gauge& put_off;
  std::map<absl::string_view, prometheus::Gauge*> paused;
};

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::Make(const v1::OpenAiConfig& config, const MakeApi& make_api,
                                                               const Host& host, const OpenAiPatience& patience) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (initialised != CURLE_OK) return absl::InternalError("libcurl cannot be initialised");
  SIBYL_ASSIGN_OR_RETURN(std::vector<EndpointOptions> endpoints, EndpointsOf(config));
  return std::unique_ptr<OpenAiJudge>(new OpenAiJudge(config, std::move(endpoints), make_api, host, patience));
}

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::ByPrompt(const v1::OpenAiConfig& config, const Host& host,
                                                                   const OpenAiPatience& patience) {
  if (config.prompt_file().empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.openai.prompt_file is not set, must be a prompt, e.g. one of configs/prompts");
  }
  SIBYL_RETURN_IF_ERROR(CheckExtraBody(config));
  SIBYL_ASSIGN_OR_RETURN(const Prompt prompt, Prompt::Load(config.prompt_file()));
  return Make(
      config, [&](const v1::OpenAiConfig& server) { return std::make_unique<ChatServer>(server, prompt); }, host,
      patience);
}

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::BySimilarity(const v1::OpenAiConfig& config, const Host& host,
                                                                       const OpenAiPatience& patience) {
  return Make(
      config, [](const v1::OpenAiConfig& server) { return std::make_unique<EmbeddingServer>(server); }, host, patience);
}

OpenAiJudge::OpenAiJudge(const v1::OpenAiConfig& config, std::vector<EndpointOptions> endpoints,
                         const MakeApi& make_api, const Host& host, const OpenAiPatience& patience)
    : config_(config),
      patience_(patience),
      api_(make_api(config)),
      clock_(host.clock),
      gauges_(std::make_unique<Gauges>(host.metrics, config.money_per_day())),
      curl_(std::make_unique<Curl>()),
      endpoints_([&] {
        std::vector<std::unique_ptr<Endpoint>> made;
        for (EndpointOptions& options : endpoints) {
          v1::OpenAiConfig server = config;
          server.set_model(options.model);
          made.push_back(std::make_unique<Endpoint>(std::move(options), make_api(server), patience, host.metrics));
        }
        return made;
      }()),
      quota_({config.requests_per_minute(), config.tokens_per_minute(), config.money_per_day()}),
      random_(FreshRandom64()),
      prompt_tokens_(300),
      completion_tokens_(config.max_tokens() / 2.0),
      most_unwritten_([&] {
        int most = 0;
        for (const auto& endpoint : endpoints_) most += endpoint->options.max_in_flight;
        return most;
      }()),
      heartbeat_(host.heartbeats.Add("judge", kLongestSilence)),
      worker_(
          "judge", [this](const std::stop_token& stop) { return Drive(stop); }, host.fail) {}

OpenAiJudge::~OpenAiJudge() {
  worker_.RequestStop();
  curl_multi_wakeup(curl_->multi);
  worker_.Join();
  for (auto& [easy, request] : requests_) {
    curl_multi_remove_handle(curl_->multi, easy);
    curl_easy_cleanup(easy);
  }
}

void OpenAiJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  auto task = std::make_unique<Task>();
  task->query = query;
  task->done = std::move(done);
  bool first = false;
  {
    MutexLock lock(mutex_);
    first = incoming_.empty();
    incoming_.push_back(std::move(task));
  }
  if (first) curl_multi_wakeup(curl_->multi);
}

void OpenAiJudge::Written() {
  if (unwritten_.fetch_sub(1) == most_unwritten_) curl_multi_wakeup(curl_->multi);
}

void OpenAiJudge::StopAsking() {
  {
    MutexLock lock(mutex_);
    stop_asking_ = true;
  }
  curl_multi_wakeup(curl_->multi);
}

std::string OpenAiJudge::waits_for() const {
  MutexLock lock(mutex_);
  return waits_for_;
}

void OpenAiJudge::Report(JudgeReports reports, const std::string& served, const std::vector<Spent>& today) {
  MutexLock lock(mutex_);
  reports_ = std::move(reports);
  spent_before_ = today;
  // The server may have said it before this call.
  if (served_.empty() || served_ == served) {
    served_ = served;
  } else if (reports_.on_served) {
    reports_.on_served(served_);
  }
}

absl::Status OpenAiJudge::Drive(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    heartbeat_->Beat();
    TakeIncoming();
    StartRequests();
    int running = 0;
    curl_multi_perform(curl_->multi, &running);
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(curl_->multi, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const auto it = requests_.find(message->easy_handle);
      std::unique_ptr<Request> request = std::move(it->second);
      requests_.erase(it);
      const CURLcode code = message->data.result;
      curl_multi_remove_handle(curl_->multi, request->easy);
      Complete(*request, code);
      curl_->Give(request->easy);
    }
    StartRequests();
    const absl::Time now = clock_.Now();
    UpdateGauges(now);
    const absl::Duration wait = std::clamp(next_event_ - now, absl::ZeroDuration(), absl::Seconds(1));
    const int64_t wait_ms = absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)));
    curl_multi_poll(curl_->multi, nullptr, 0, static_cast<int>(wait_ms), nullptr);
  }
  return absl::OkStatus();
}

void OpenAiJudge::TakeIncoming() {
  std::vector<std::unique_ptr<Task>> incoming;
  std::vector<Spent> spent;
  {
    MutexLock lock(mutex_);
    incoming.swap(incoming_);
    spent.swap(spent_before_);
    stopped_asking_ = stop_asking_;
    verdicts_are_written_ = reports_.verdicts_are_written;
  }
  for (const Spent& before : spent) {
    quota_.money().Spend(before.cost, clock_.Now());
    for (auto& endpoint : endpoints_) {
      if (endpoint->options.name == before.endpoint) endpoint->quota.money().Spend(before.cost, clock_.Now());
    }
  }
  for (auto& task : incoming) {
    task->place = {-task->query.priority(), next_number_++};
    PutBack(std::move(task));
  }
  if (!stopped_asking_) return;
  // Those that were asked and failed are asked again after the next start, like those that were not.
  const auto drop = [](std::unique_ptr<Task> task) {
    Verdict verdict;
    verdict.asked = false;
    task->done(std::move(verdict));
  };
  for (auto& [place, task] : ready_) drop(std::move(task));
  for (auto& [time, task] : put_off_) drop(std::move(task));
  ready_.clear();
  put_off_.clear();
  for (auto& endpoint : endpoints_) {
    for (auto& task : endpoint->suspects) drop(std::move(task));
    endpoint->suspects.clear();
  }
}

void OpenAiJudge::StartRequests() {
  const absl::Time now = clock_.Now();
  next_event_ = absl::InfiniteFuture();
  if (stopped_asking_) return;
  while (!put_off_.empty() && put_off_.begin()->first <= now) {
    std::unique_ptr<Task> task = std::move(put_off_.begin()->second);
    put_off_.erase(put_off_.begin());
    PutBack(std::move(task));
  }
  if (!put_off_.empty()) next_event_ = put_off_.begin()->first;
  for (auto& endpoint : endpoints_) StartProbes(*endpoint, now);
  while (!ready_.empty() && (!verdicts_are_written_ || unwritten_ < most_unwritten_)) {
    Endpoint* endpoint = Choose(now);
    if (endpoint == nullptr) break;
    std::unique_ptr<Task> task = NextTask(*endpoint);
    if (task->retried) gauges_->retries.Increment();
    std::string body = endpoint->api->Request(task->query, task->progress);
    Send(*endpoint, std::move(task), std::move(body));
  }
}

void OpenAiJudge::StartProbes(Endpoint& endpoint, absl::Time now) {
  const auto wait_until = [&](absl::Time time) { next_event_ = std::min(next_event_, time); };
  if (IsSpent(endpoint.quota, endpoint, now) || IsSpent(quota_, endpoint, now)) return;
  if (now < endpoint.pause_until) return wait_until(endpoint.pause_until);
  switch (endpoint.breaker.state(now)) {
    case CircuitBreaker::kOpen:
      return wait_until(endpoint.breaker.probe_at());
    case CircuitBreaker::kHalfOpen:
      break;
    case CircuitBreaker::kClosed: {
      if (endpoint.suspects.empty() || endpoint.probes > 0) return;
      // Nothing else has been answered or has failed since: a probe tells whose fault it was.
      const absl::Time ask_at = endpoint.suspected_at + patience_.first_wait;
      if (now < ask_at && !(ready_.empty() && endpoint.in_flight == 0)) return wait_until(ask_at);
      break;
    }
  }
  if (endpoint.probes > 0) {
    const absl::Time again_at = endpoint.probe_sent + patience_.longest_probe_wait;
    if (now < again_at) return wait_until(again_at);
    AcquitSuspects(endpoint);  // they do not wait for a server that hangs
    if (endpoint.probes >= kMostProbes) return;
  }
  endpoint.probe_sent = now;
  Send(endpoint, nullptr, endpoint.api->Probe());
  wait_until(now + patience_.longest_probe_wait);
}

Usage OpenAiJudge::Expected(const Endpoint& endpoint) const {
  return {
      prompt_tokens_ + completion_tokens_,
      (endpoint.options.price.prompt * prompt_tokens_ + endpoint.options.price.completion * completion_tokens_) / 1e6};
}

bool OpenAiJudge::IsSpent(Quota& quota, const Endpoint& endpoint, absl::Time now) const {
  return quota.money().ready_at(Expected(endpoint).cost, now) > now;
}

OpenAiJudge::Endpoint* OpenAiJudge::Choose(absl::Time now) {
  Endpoint* chosen = nullptr;
  double weights = 0;
  held_by_limits_.clear();
  const auto held = [&](absl::Time until, absl::string_view whose) {
    next_event_ = std::min(next_event_, until);
    held_by_limits_ = absl::StrCat("the limits of requests and tokens a minute of ", whose);
  };
  for (auto& endpoint : endpoints_) {
    if (endpoint->breaker.state(now) != CircuitBreaker::kClosed || now < endpoint->pause_until) continue;
    if (endpoint->unfit || !endpoint->identified) continue;
    int most = endpoint->limit.limit();
    if (endpoint->breaker.on_trial() || RefusesAll(*endpoint)) {
      // One more each time that those before have hung for a while.
      most = 1 + static_cast<int>((now - endpoint->trial_at) / patience_.longest_probe_wait);
      next_event_ = std::min(next_event_, endpoint->trial_at + most * patience_.longest_probe_wait);
      most = std::min(most, endpoint->options.max_in_flight);
    }
    if (endpoint->in_flight >= most) continue;
    if (IsSpent(quota_, *endpoint, now) || IsSpent(endpoint->quota, *endpoint, now)) continue;
    const Usage expected = Expected(*endpoint);
    if (const absl::Time ready = quota_.ready_at(expected, now); ready > now) {
      held(ready, "all servers together");
      continue;
    }
    if (const absl::Time ready = endpoint->quota.ready_at(expected, now); ready > now) {
      held(ready, endpoint->options.name);
      continue;
    }
    endpoint->turn += endpoint->options.weight;
    weights += endpoint->options.weight;
    if (chosen == nullptr || endpoint->turn > chosen->turn) chosen = endpoint.get();
  }
  if (chosen != nullptr) chosen->turn -= weights;
  return chosen;
}

std::unique_ptr<OpenAiJudge::Task> OpenAiJudge::NextTask(const Endpoint& endpoint) {
  auto next = ready_.begin();
  // On trial any one will do, best one that has not failed: many bad queries in front must not keep good ones back.
  if (endpoint.breaker.on_trial() || RefusesAll(endpoint)) {
    for (int i = 0; i < 3; ++i) {
      next = std::next(ready_.begin(), static_cast<std::ptrdiff_t>(random_.Below(ready_.size())));
      if (!next->second->retried) break;
    }
  }
  std::unique_ptr<Task> task = std::move(next->second);
  ready_.erase(next);
  return task;
}

void OpenAiJudge::Send(Endpoint& endpoint, std::unique_ptr<Task> task, std::string body) {
  auto request = std::make_unique<Request>();
  request->endpoint = &endpoint;
  request->task = std::move(task);
  request->round = endpoint.round;
  request->body = std::move(body);
  request->sent = clock_.Now();
  request->outages = endpoint.outages;
  ++(request->task != nullptr ? endpoint.in_flight : endpoint.probes);
  if (request->task != nullptr) request->expected = Expected(endpoint);
  quota_.OnSend(request->expected, request->sent);
  endpoint.quota.OnSend(request->expected, request->sent);
  CURL* easy = request->easy = curl_->Take();
  PrepareRequest(*request, endpoint.request_url);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request->body.size()));
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body.data());
  curl_multi_add_handle(curl_->multi, easy);
  requests_[easy] = std::move(request);
}

void OpenAiJudge::PrepareRequest(Request& request, const std::string& url) const {
  CURL* easy = request.easy;
  request.headers = curl_slist_append(request.headers, "Content-Type: application/json");
  request.headers = curl_slist_append(request.headers, "Expect:");  // no wait for "100 Continue"
  if (!request.endpoint->key.empty()) {
    request.headers = curl_slist_append(request.headers, ("Authorization: Bearer " + request.endpoint->key).c_str());
  }
  const long timeout = static_cast<long>(config_.timeout_seconds() * 1000);
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  // A server on this machine is reached directly, whatever proxy the environment names.
  if (absl::StartsWith(url, "http://127.0.0.1:")) curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  // A redirected request stays a POST; curl sends the key to the first host alone.
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(easy, CURLOPT_POSTREDIR, static_cast<long>(CURL_REDIR_POST_ALL));
  curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 3L);
  curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request.headers);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, std::max(1L, timeout));
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, std::clamp(timeout, 1L, 5000L));
  curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, kIdleSeconds);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &request.response);
  curl_easy_setopt(
      easy, CURLOPT_WRITEFUNCTION, +[](char* data, size_t size, size_t count, void* to) -> size_t {
        auto& response = *static_cast<std::string*>(to);
        if (response.size() + size * count > kMaxBodyBytes) return 0;
        response.append(data, size * count);
        return size * count;
      });
}

void OpenAiJudge::Complete(Request& request, int curl_code) {
  const absl::Time now = clock_.Now();
  Endpoint& endpoint = *request.endpoint;
  if (request.models) {
    endpoint.identified = true;
    return CompleteModels(endpoint, curl_code == CURLE_OK ? request.response : "");
  }
  const bool probe = request.task == nullptr;
  if (probe) {
    --endpoint.probes;
  } else if (request.outages == endpoint.outages) {
    --endpoint.in_flight;
  }
  long status = 0;
  curl_easy_getinfo(request.easy, CURLINFO_RESPONSE_CODE, &status);
  curl_off_t retry_after = 0;
  curl_easy_getinfo(request.easy, CURLINFO_RETRY_AFTER, &retry_after);
  gauges_->seconds.Observe(absl::ToDoubleSeconds(now - request.sent));

  const char* result = "answered";
  std::string reason;
  Ending ending = Ending::kAnswered;
  bool adapted = false;  // refused, and the next request will be another
  ServerApi::Answer answer;
  std::pair<uint64_t, uint64_t> tokens;
  const auto said = [&] { return Presentable(request.response, 300); };
  if (curl_code != CURLE_OK) {
    const bool timeout = curl_code == CURLE_OPERATION_TIMEDOUT;
    result = timeout ? "timeout" : "no_connection";
    reason = curl_easy_strerror(static_cast<CURLcode>(curl_code));
    ending = Ending::kFailed;
  } else if (SaysNoQuota(status, request.response)) {
    result = "no_quota";
    reason = absl::StrCat("its account has no quota left: it answers ", status, ": ", said());
    ending = Ending::kNoQuota;
  } else if (status == 429) {
    result = "rate_limited";
    reason = absl::StrCat("it answers 429, too many requests: ", said());
    ending = Ending::kOverload;
  } else if (status == 401 || status == 403) {
    result = "unauthorized";
    reason = absl::StrCat("it answers ", status, "; check the key in the environment variable ",
                          endpoint.options.key_env, ": ", said());
    ending = Ending::kFailed;
  } else if (status == 400 || status == 413 || status == 422) {
    result = "rejected";
    adapted = !probe && endpoint.api->Adapt(request.body, request.response);
    reason = absl::StrCat("HTTP ", status, ": ", Presentable(request.response, 2000));
    ending = Ending::kRefused;
  } else if (status != 200) {
    result = "unavailable";
    reason = absl::StrCat("it answers ", status, status == 404 ? "; check annotator.openai.url and model" : "", ": ",
                          said());
    ending = Ending::kFailed;
  } else {
    bool valid = false;
    if (probe) {
      valid = api_->IsAnswer(request.response);
    } else {
      const ServerApi::Progress& before = request.task->progress;
      answer = endpoint.api->Read(request.task->query, before, request.response);
      valid = answer.valid;
      tokens = answer.next.has_value() ? std::pair(answer.next->prompt_tokens, answer.next->completion_tokens)
                                       : std::pair(answer.verdict.prompt_tokens, answer.verdict.completion_tokens);
      if (valid) tokens = {tokens.first - before.prompt_tokens, tokens.second - before.completion_tokens};
    }
    if (!valid) {
      result = "invalid";
      reason = absl::StrCat("it sends what is no answer to ", api_->path(), ": ", said());
      ending = Ending::kFailed;
    } else if (answer.empty) {
      result = "empty";
      reason = "its answer is empty or was broken off";
      ending = Ending::kEmpty;
    }
  }
  endpoint.gauges.results.at(result)->Increment();

  // What it took.
  if (tokens.first + tokens.second == 0) tokens = TokensOf(request.response);
  const double cost = endpoint.options.price.Of(tokens.first, tokens.second);
  const Usage used = {static_cast<double>(tokens.first + tokens.second), cost};
  quota_.OnEnd(request.expected, used, now);
  endpoint.quota.OnEnd(request.expected, used, now);
  {
    MutexLock lock(mutex_);
    if (reports_.on_request) {
      reports_.on_request({endpoint.options.name, endpoint.options.model, probe ? "" : request.task->query.goal(),
                           result, tokens.first, tokens.second, cost});
    }
  }

  const bool answered = ending == Ending::kAnswered || ending == Ending::kEmpty;
  if (!probe && answered) endpoint.refusals = 0;
  if (!probe && ending == Ending::kRefused && !adapted) ++endpoint.refusals;
  endpoint.gauges.reachable.Set(ending == Ending::kFailed || ending == Ending::kNoQuota || RefusesAll(endpoint) ? 0
                                                                                                                : 1);
  if (ending == Ending::kNoQuota) {
    if (!endpoint.out_of_quota || endpoint.breaker.state(now) != CircuitBreaker::kOpen) {
      endpoint.breaker.Open(now, now + endpoint.quota_wait.Next());
    }
    endpoint.out_of_quota = true;
    ++endpoint.round;
    SayWaiting(endpoint, reason);
    AcquitSuspects(endpoint);
    if (!probe) PutBack(std::move(request.task));
    return;
  }
  if ((status == 429 || status == 503) && retry_after > 0) {
    endpoint.pause_until =
        now + std::min(absl::Seconds(static_cast<int64_t>(retry_after)), patience_.longest_retry_after);
    if (!probe) endpoint.breaker.GoOnTrial();
    endpoint.trial_at = endpoint.pause_until;
    endpoint.limit.OnReturn();
  } else if (ending == Ending::kOverload || status == 503 ||
             // Where queries that were sent later have been answered, the server has not too much.
             (result == absl::string_view("timeout") && endpoint.answered_at < request.sent)) {
    endpoint.limit.OnOverload(request.sent, now);
  }

  if (probe) {
    if (request.round != endpoint.round) return;  // a newer one has told more
    if (ending == Ending::kFailed || ending == Ending::kOverload) {
      if (endpoint.probes > 0) return;  // another one is out
      SayWaiting(endpoint, reason);
      AcquitSuspects(endpoint);
      endpoint.breaker.OnProbe(false, now);
    } else {
      CompleteProbe(endpoint, request, status);
    }
    return;
  }

  std::unique_ptr<Task> task = std::move(request.task);
  task->prompt_tokens += tokens.first;
  task->completion_tokens += tokens.second;
  task->cost += cost;
  switch (ending) {
    case Ending::kAnswered:
    case Ending::kEmpty:
      ++answers_;
      endpoint.answered_at = now;
      endpoint.limit.OnAnswer();
      endpoint.breaker.OnAnswer();
      endpoint.out_of_quota = false;
      endpoint.quota_wait.Reset();
      if (endpoint.breaker.state(now) == CircuitBreaker::kClosed) SayWaiting(endpoint, "");
      ChargeSuspects(endpoint, now);
      prompt_tokens_ += (static_cast<double>(tokens.first) - prompt_tokens_) / 16;
      completion_tokens_ += (static_cast<double>(tokens.second) - completion_tokens_) / 16;
      if (ending == Ending::kEmpty && ++task->empty_answers < patience_.most_empty_answers) {
        PutOff(std::move(task), now);
        return;
      }
      if (answer.next.has_value()) {
        task->progress = *std::move(answer.next);
        PutBack(std::move(task));
        return;
      }
      if (answer.verdict.outcome == v1::OUTCOME_FAILED) {
        answer.verdict.reason = "the model or its filter kept the answer back";
        if (answer.verdict.raw.empty()) answer.verdict.raw = request.response.substr(0, 2000);
      } else if (answer.verdict.outcome == v1::OUTCOME_UNPARSABLE && answer.verdict.reason.empty()) {
        answer.verdict.reason = ending == Ending::kEmpty ? reason : "the answer says no label";
      }
      answer.verdict.raw = Presentable(answer.verdict.raw, std::string::npos);
      End(std::move(task), std::move(answer.verdict));
      return;
    case Ending::kRefused:
      if (adapted) return PutBack(std::move(task));
      if (RefusesAll(endpoint)) {
        SayWaiting(endpoint,
                   absl::StrCat("it answers a plain request and refuses every query, the last with ", reason));
        const bool first = endpoint.refusals == patience_.refusals_to_open;
        endpoint.breaker.Open(now);
        // It is the server that is wrong, or nothing but bad queries is left.
        if (!first && ++task->tries < patience_.most_tries) return PutBack(std::move(task));
      }
      Fail(std::move(task), reason);
      return;
    case Ending::kOverload:
      if (retry_after <= 0) endpoint.breaker.OnFailure(now);
      if (endpoint.breaker.state(now) != CircuitBreaker::kClosed) SayWaiting(endpoint, reason);
      if (answers_ > task->answers_seen) {
        task->answers_seen = answers_;
        if (++task->rate_limited >= patience_.most_rate_limited) {
          const int tries = task->rate_limited;
          return Fail(std::move(task),
                      absl::StrCat("given up after ", tries, " tries while others were answered: ", reason));
        }
      }
      task->retried = true;
      if (retry_after > 0) {
        PutBack(std::move(task));
      } else {
        PutOff(std::move(task), now);
      }
      return;
    case Ending::kFailed:
      task->reason = reason;
      task->retried = true;
      if (endpoint.suspects.empty()) endpoint.suspected_at = now;
      endpoint.suspects.push_back(std::move(task));
      endpoint.breaker.OnFailure(now);
      if (endpoint.breaker.state(now) != CircuitBreaker::kClosed) SayWaiting(endpoint, reason);
      return;
    case Ending::kNoQuota:
      return;
  }
}

void OpenAiJudge::CompleteProbe(Endpoint& endpoint, Request& request, long status) {
  const absl::Time now = clock_.Now();
  std::string found;
  ++endpoint.round;
  switch (endpoint.api->OnProbe(status, request.response, &found)) {
    case ServerApi::Probed::kAskAgain:
      // Half open still: the next probe goes out at once.
      endpoint.probe_sent = absl::InfinitePast();
      return;
    case ServerApi::Probed::kRefused:
      SayWaiting(endpoint,
                 absl::StrCat("it refuses a plain request with ", status, ": ", Presentable(request.response, 300)));
      AcquitSuspects(endpoint);
      endpoint.breaker.OnProbe(false, now);
      return;
    case ServerApi::Probed::kUsable:
      ++answers_;
      if (char* url = nullptr; Redirected(request.easy, &url)) {
        absl::StrAppend(&found, "; it redirects to ", url, ", set annotator.openai.url to the address there");
      }
      if (found != endpoint.found || (!endpoint.waiting_for.empty() && !RefusesAll(endpoint))) {
        spdlog::info("judge {} at {}: {}", endpoint.options.model, endpoint.options.name, found);
      }
      endpoint.found = found;
      if (endpoint.breaker.state(now) != CircuitBreaker::kClosed) {
        endpoint.model = ReportedModel(request.response);
        endpoint.identified = false;
        AskModels(endpoint);
      }
      endpoint.out_of_quota = false;
      if (endpoint.breaker.state(now) != CircuitBreaker::kClosed) {
        endpoint.in_flight = 0;
        ++endpoint.outages;
      }
      endpoint.breaker.OnProbe(true, now);
      endpoint.trial_at = now;
      if (endpoint.breaker.on_trial()) endpoint.limit.OnReturn();
      ChargeSuspects(endpoint, now);
  }
}

void OpenAiJudge::AskModels(Endpoint& endpoint) {
  auto request = std::make_unique<Request>();
  request->endpoint = &endpoint;
  request->models = true;
  request->sent = clock_.Now();
  CURL* easy = request->easy = curl_->Take();
  PrepareRequest(*request, endpoint.options.url + "/models");
  curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 5000L);  // a server that does not say it is used all the same
  curl_multi_add_handle(curl_->multi, easy);
  requests_[easy] = std::move(request);
}

void OpenAiJudge::CompleteModels(Endpoint& endpoint, const std::string& body) {
  // A server that calls the model by another name is taken at the configuration's word.
  std::string served =
      endpoint.options.model == config_.model() && !endpoint.model.empty() ? endpoint.model : config_.model();
  served = absl::StrCat(served.substr(served.rfind('/') + 1), "; ", endpoint.found);
  if (const std::string facts = ModelFacts(body, endpoint.options.model); !facts.empty()) {
    absl::StrAppend(&served, "; ", facts);
  }
  MutexLock lock(mutex_);
  if (served == served_) {
    endpoint.unfit = false;
    return;
  }
  if (&endpoint != endpoints_[0].get() && !served_.empty()) {
    if (!endpoint.unfit) {
      spdlog::warn("{} is not asked: it serves `{}`, the others `{}`, and their answers must not mix",
                   endpoint.options.name, served, served_);
    }
    endpoint.unfit = true;
    return;
  }
  if (!served_.empty()) {
    spdlog::warn(
        "the model behind {} has changed: it was `{}` and is `{}`. Earlier labels stay in the store; captions that are "
        "offered again are asked again",
        endpoint.options.name, served_, served);
  }
  served_ = served;
  endpoint.unfit = false;
  if (reports_.on_served) reports_.on_served(served);
}

void OpenAiJudge::ChargeSuspects(Endpoint& endpoint, absl::Time now) {
  std::vector<std::unique_ptr<Task>> suspects;
  suspects.swap(endpoint.suspects);
  for (auto& task : suspects) {
    if (++task->tries < patience_.most_tries) {
      PutOff(std::move(task), now);
      continue;
    }
    const std::string reason =
        absl::StrCat("given up after ", task->tries, " tries while others were answered: ", task->reason);
    Fail(std::move(task), reason);
  }
}

void OpenAiJudge::AcquitSuspects(Endpoint& endpoint) {
  for (auto& task : endpoint.suspects) PutBack(std::move(task));
  endpoint.suspects.clear();
}

void OpenAiJudge::PutBack(std::unique_ptr<Task> task) {
  const Place place = task->place;
  ready_.emplace(place, std::move(task));
}

void OpenAiJudge::PutOff(std::unique_ptr<Task> task, absl::Time now) {
  if (task->backoff == nullptr) {
    task->backoff = std::make_unique<Backoff>(patience_.first_wait, patience_.longest_wait, FreshRandom64());
  }
  task->retried = true;
  const absl::Time until = now + task->backoff->Next();
  put_off_.emplace(until, std::move(task));
}

void OpenAiJudge::End(std::unique_ptr<Task> task, Verdict verdict) {
  verdict.prompt_tokens = task->prompt_tokens;
  verdict.completion_tokens = task->completion_tokens;
  verdict.cost = task->cost;
  ++unwritten_;
  task->done(std::move(verdict));
}

void OpenAiJudge::Fail(std::unique_ptr<Task> task, const std::string& reason) {
  Verdict verdict;
  verdict.raw = verdict.reason = reason;
  End(std::move(task), std::move(verdict));
}

bool OpenAiJudge::RefusesAll(const Endpoint& endpoint) const { return endpoint.refusals >= patience_.refusals_to_open; }

void OpenAiJudge::SayWaiting(Endpoint& endpoint, const std::string& reason) {
  if (reason == endpoint.waiting_for) return;
  if (!reason.empty()) {
    spdlog::warn("waiting for the judge at {}: {}; queries are kept, and it is tried again", endpoint.options.name,
                 reason);
  }
  endpoint.waiting_for = reason;
}

void OpenAiJudge::UpdateGauges(absl::Time now) {
  // Why no server may be asked: the reason of the first one, unless the money of all together is spent.
  std::string waits_for;
  absl::string_view pause;
  bool some_may = false;
  // What is in flight counts as spent as much as expected; that may be too much.
  bool over = requests_.empty();
  for (auto& endpoint : endpoints_) over = over && IsSpent(quota_, *endpoint, now);
  if (over && !over_budget_) {
    spdlog::warn("asking pauses until midnight UTC: annotator.openai.money_per_day of {} is spent; queries are kept",
                 quota_.money().per_day());
  }
  over_budget_ = over;
  size_t put_off = put_off_.size();
  for (auto& endpoint : endpoints_) {
    put_off += endpoint->suspects.size();
    endpoint->gauges.limit.Set(endpoint->limit.limit());
    endpoint->gauges.breaker.Set(endpoint->breaker.state(now));
    endpoint->gauges.in_flight.Set(endpoint->in_flight + endpoint->probes);
    endpoint->gauges.money.Set(endpoint->quota.money().spent(now));
    const bool spent = endpoint->in_flight == 0 && IsSpent(endpoint->quota, *endpoint, now);
    if (spent && !endpoint->over_budget) {
      spdlog::warn("{} is not asked until midnight UTC: its money_per_day of {} is spent", endpoint->options.name,
                   endpoint->quota.money().per_day());
    }
    endpoint->over_budget = spent;
    const bool open = endpoint->breaker.state(now) != CircuitBreaker::kClosed;
    absl::string_view why;
    std::string words;
    if (spent) {
      why = "money";
      words = absl::StrCat(endpoint->options.name, ": its money_per_day is spent; asked again at midnight UTC");
    } else if (open && endpoint->out_of_quota) {
      why = "server_quota";
      words = absl::StrCat(endpoint->options.name, ": ", endpoint->waiting_for);
    } else if (open && RefusesAll(*endpoint)) {
      why = "refusals";
      words = absl::StrCat(endpoint->options.name, ": ", endpoint->waiting_for);
    } else if ((open && !endpoint->waiting_for.empty()) || now < endpoint->pause_until) {
      why = "outage";
      words = absl::StrCat(endpoint->options.name, ": ",
                           endpoint->waiting_for.empty() ? "it asked for a pause" : endpoint->waiting_for);
    }
    if (why.empty()) {
      some_may = true;
    } else if (pause.empty()) {
      pause = why;
      waits_for = words;
    }
  }
  if (some_may) {
    pause = held_by_limits_.empty() ? "" : "limits";
    waits_for = held_by_limits_;
  }
  if (over) {
    pause = "money";
    waits_for = "annotator.openai.money_per_day is spent; asking goes on at midnight UTC";
  }
  gauges_->put_off.Set(static_cast<double>(put_off));
  for (auto& [reason, gauge] : gauges_->paused) gauge->Set(reason == pause ? 1 : 0);
  MutexLock lock(mutex_);
  waits_for_ = std::move(waits_for);
}

std::string OpenAiJudge::Presentable(const std::string& text, size_t limit) const {
  // Keys go before the cut: half a key is no less secret.
  std::string shown = text;
  for (const auto& endpoint : endpoints_) {
    if (!endpoint->key.empty()) absl::StrReplaceAll({{endpoint->key, "<key>"}}, &shown);
  }
  return ValidUtf8(absl::string_view(shown).substr(0, limit));
}

}  // namespace sibyl::annotator
