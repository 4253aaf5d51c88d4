#include "annotator/judges/openai_judge.h"

#include <curl/curl.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "annotator/judges/chat_server.h"
#include "annotator/judges/similarity.h"
#include "common/log.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

// Longer answers than this are no answers.
constexpr size_t kMaxBodyBytes = 8 << 20;
// Servers close idle connections after 5 s and more; ours are given up before that.
constexpr long kIdleSeconds = 4;

const char* const kResults[] = {"answered", "empty",         "rejected",     "rate_limited", "unavailable",
                                "timeout",  "no_connection", "unauthorized", "invalid"};

// Whether a request was redirected; `url` is where it ended.
bool Redirected(CURL* easy, char** url) {
  long redirects = 0;
  curl_easy_getinfo(easy, CURLINFO_REDIRECT_COUNT, &redirects);
  curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, url);
  return redirects > 0;
}

}  // namespace

struct OpenAiJudge::Task {
  v1::Query query;
  std::function<void(Verdict)> done;
  ServerApi::Progress progress;
  absl::Time not_before = absl::InfinitePast();
  std::unique_ptr<Backoff> backoff;
  bool retried = false;  // its next request is a retry
  int tries = 0;         // that failed while others were answered
  int empty_answers = 0;
  uint64_t answers_seen = 0;  // of all queries, when it last failed
};

struct OpenAiJudge::Request {
  ~Request() {
    curl_slist_free_all(headers);
    if (easy != nullptr) curl_easy_cleanup(easy);
  }
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  std::unique_ptr<Task> task;  // nullptr: a probe
  std::string body;
  std::string response;
  absl::Time sent;
};

struct OpenAiJudge::Curl {
  Curl() : multi(curl_multi_init()) {}
  ~Curl() { curl_multi_cleanup(multi); }
  CURLM* multi;
};

struct OpenAiJudge::Gauges {
  explicit Gauges(Metrics& metrics)
      : retries(metrics.Counter("sibyl_annotator_judge_retries_total", "Requests sent again for the same query.")),
        seconds(metrics.Histogram("sibyl_annotator_judge_request_seconds", "Seconds from request to answer.",
                                  {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100})),
        limit(metrics.Gauge("sibyl_annotator_concurrency_limit", "Requests that may be in flight now.")),
        requests_in_flight(metrics.Gauge("sibyl_annotator_judge_requests_in_flight", "Requests in flight.")),
        breaker(metrics.Gauge("sibyl_annotator_breaker_state", "0: closed, 1: half open (probing), 2: open.")),
        reachable(
            metrics.Gauge("sibyl_annotator_judge_reachable",
                          "1 when the last probe or request was answered and the judge does not refuse every query.")) {
    for (const char* result : kResults) {
      results[result] = &metrics.Counter("sibyl_annotator_judge_requests_total",
                                         "Requests to the judge, by how they ended.", {{"result", result}});
    }
  }
  prometheus::Counter& retries;
  prometheus::Histogram& seconds;
  prometheus::Gauge& limit;
  prometheus::Gauge& requests_in_flight;
  prometheus::Gauge& breaker;
  prometheus::Gauge& reachable;
  std::map<std::string, prometheus::Counter*> results;
};

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::Make(const v1::OpenAiConfig& config,
                                                               std::unique_ptr<ServerApi> api, const Host& host,
                                                               const OpenAiPatience& patience) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (initialised != CURLE_OK) return absl::InternalError("libcurl cannot be initialised");
  const auto needs = [](absl::string_view field, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("config: annotator.openai.", field, " is not set, must be ", what));
  };
  if (config.url().empty()) return needs("url", "the server's base address, e.g. \"http://127.0.0.1:8000/v1\"");
  if (config.model().empty()) return needs("model", "the model's name at the server");
  return std::unique_ptr<OpenAiJudge>(new OpenAiJudge(config, std::move(api), host, patience));
}

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::ByPrompt(const v1::OpenAiConfig& config, const Host& host,
                                                                   const OpenAiPatience& patience) {
  if (config.prompt_file().empty()) {
    return absl::InvalidArgumentError(
        "config: annotator.openai.prompt_file is not set, must be a prompt, e.g. one of configs/prompts");
  }
  SIBYL_RETURN_IF_ERROR(CheckExtraBody(config));
  SIBYL_ASSIGN_OR_RETURN(Prompt prompt, Prompt::Load(config.prompt_file()));
  return Make(config, std::make_unique<ChatServer>(config, std::move(prompt)), host, patience);
}

absl::StatusOr<std::unique_ptr<OpenAiJudge>> OpenAiJudge::BySimilarity(const v1::OpenAiConfig& config, const Host& host,
                                                                       const OpenAiPatience& patience) {
  return Make(config, std::make_unique<EmbeddingServer>(config), host, patience);
}

OpenAiJudge::OpenAiJudge(const v1::OpenAiConfig& config, std::unique_ptr<ServerApi> api, const Host& host,
                         const OpenAiPatience& patience)
    : config_(config),
      api_(std::move(api)),
      patience_(patience),
      key_([&] {
        const char* key = std::getenv(config.api_key_env().c_str());
        return std::string(absl::StripAsciiWhitespace(key == nullptr ? "" : key));
      }()),
      clock_(host.clock),
      gauges_(std::make_unique<Gauges>(host.metrics)),
      curl_(std::make_unique<Curl>()),
      limit_(static_cast<int>(config.max_in_flight())),
      breaker_(patience.failures_to_open, patience.first_wait, patience.longest_wait, FreshRandom64()),
      heartbeat_(host.heartbeats.Add("judge", kLongestSilence)),
      worker_(
          "judge", [this](const std::stop_token& stop) { return Drive(stop); }, host.fail) {}

OpenAiJudge::~OpenAiJudge() {
  worker_.RequestStop();
  curl_multi_wakeup(curl_->multi);
  worker_.Join();
  for (auto& [easy, request] : requests_) curl_multi_remove_handle(curl_->multi, easy);
}

void OpenAiJudge::Answer(const v1::Query& query, std::function<void(Verdict)> done) {
  auto task = std::make_unique<Task>();
  task->query = query;
  task->done = std::move(done);
  task->backoff = std::make_unique<Backoff>(patience_.first_wait, patience_.longest_wait, FreshRandom64());
  {
    MutexLock lock(mutex_);
    incoming_.push_back(std::move(task));
  }
  curl_multi_wakeup(curl_->multi);
}

absl::Status OpenAiJudge::Drive(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    heartbeat_->Beat();
    {
      MutexLock lock(mutex_);
      for (auto& task : incoming_) tasks_.push_back(std::move(task));
      incoming_.clear();
    }
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
      left = 1;  // Complete may have made room
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

void OpenAiJudge::StartRequests() {
  const absl::Time now = clock_.Now();
  next_event_ = absl::InfiniteFuture();
  if (now < pause_until_) {
    next_event_ = pause_until_;
    return;
  }
  switch (breaker_.state(now)) {
    case CircuitBreaker::kOpen:
      next_event_ = breaker_.probe_at();
      return;
    case CircuitBreaker::kHalfOpen:
      if (!probing_) {
        probing_ = true;
        Send(nullptr, api_->Probe());
      }
      return;
    case CircuitBreaker::kClosed:
      break;
  }
  const int most = RefusesAll() ? 1 : limit_.limit();  // one query tells whether it still refuses all
  for (size_t i = 0; i < tasks_.size() && static_cast<int>(requests_.size()) < most;) {
    Task& task = *tasks_[i];
    if (now < task.not_before) {
      next_event_ = std::min(next_event_, task.not_before);
      ++i;
      continue;
    }
    if (task.retried && !budget_.Take(now)) {
      task.not_before = now + absl::Milliseconds(100);
      continue;
    }
    if (task.retried) gauges_->retries.Increment();
    budget_.OnRequest();
    std::unique_ptr<Task> taken = std::move(tasks_[i]);
    tasks_.erase(tasks_.begin() + i);
    std::string body = api_->Request(taken->query, taken->progress);
    Send(std::move(taken), std::move(body));
  }
}

void OpenAiJudge::Send(std::unique_ptr<Task> task, std::string body) {
  auto request = std::make_unique<Request>();
  request->task = std::move(task);
  request->body = std::move(body);
  request->sent = clock_.Now();
  CURL* easy = request->easy = curl_easy_init();
  request->headers = curl_slist_append(request->headers, "Content-Type: application/json");
  request->headers = curl_slist_append(request->headers, "Expect:");  // no wait for "100 Continue"
  if (!key_.empty()) request->headers = curl_slist_append(request->headers, ("Authorization: Bearer " + key_).c_str());
  absl::string_view base = config_.url();
  while (absl::ConsumeSuffix(&base, "/")) {
  }
  const long timeout = static_cast<long>(config_.timeout_seconds() * 1000);
  curl_easy_setopt(easy, CURLOPT_URL, absl::StrCat(base, api_->path()).c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  // A redirected request stays a POST; curl sends the key to the first host alone.
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(easy, CURLOPT_POSTREDIR, static_cast<long>(CURL_REDIR_POST_ALL));
  curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 3L);
  curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request->body.size()));
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body.data());
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, std::max(1L, timeout));
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, std::clamp(timeout, 1L, 5000L));
  curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, kIdleSeconds);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &request->response);
  curl_easy_setopt(
      easy, CURLOPT_WRITEFUNCTION, +[](char* data, size_t size, size_t count, void* to) -> size_t {
        auto& response = *static_cast<std::string*>(to);
        if (response.size() + size * count > kMaxBodyBytes) return 0;
        response.append(data, size * count);
        return size * count;
      });
  curl_multi_add_handle(curl_->multi, easy);
  requests_[easy] = std::move(request);
}

void OpenAiJudge::Complete(Request& request, int curl_code) {
  const absl::Time now = clock_.Now();
  long status = 0;
  curl_easy_getinfo(request.easy, CURLINFO_RESPONSE_CODE, &status);
  curl_off_t retry_after = 0;
  curl_easy_getinfo(request.easy, CURLINFO_RETRY_AFTER, &retry_after);
  gauges_->seconds.Observe(absl::ToDoubleSeconds(now - request.sent));

  // What it came to. `overload`: the server has too much. `failure`: it may be gone.
  const char* result = "answered";
  std::string reason;
  bool overload = false, failure = false;
  ServerApi::Answer answer;
  const std::string said = Presentable(request.response, 300);
  if (curl_code != CURLE_OK) {
    const bool timeout = curl_code == CURLE_OPERATION_TIMEDOUT;
    result = timeout ? "timeout" : "no_connection";
    reason = curl_easy_strerror(static_cast<CURLcode>(curl_code));
    overload = timeout;
    failure = true;
  } else if (status == 429) {
    result = "rate_limited";
    reason = "it answers 429, too many requests";
    overload = true;
  } else if (status == 401 || status == 403) {
    result = "unauthorized";
    reason = absl::StrCat("it answers ", status, "; check the key in the environment variable ", config_.api_key_env());
    failure = true;
  } else if (status == 400 || status == 413 || status == 422) {
    result = "rejected";
    if (request.task != nullptr && api_->Adapt(request.body, request.response)) {
      gauges_->results.at(result)->Increment();
      tasks_.insert(tasks_.begin(), std::move(request.task));
      return;
    }
  } else if (status == 200) {
    if (!api_->IsAnswer(request.response)) {
      result = "invalid";
      reason = absl::StrCat("it sends what is no answer to ", api_->path(), ": ", said);
      failure = true;
    } else if (request.task != nullptr) {
      answer = api_->Read(request.task->query, request.task->progress, request.response);
      if (answer.empty) result = "empty";
    }
  } else {
    result = "unavailable";
    reason =
        absl::StrCat("it answers ", status, status == 404 ? "; check annotator.openai.url and model" : "", ": ", said);
    overload = status == 503;
    failure = true;
  }
  gauges_->results.at(result)->Increment();
  if ((status == 429 || status == 503) && retry_after > 0) {
    pause_until_ = now + std::min(absl::Seconds(static_cast<int64_t>(retry_after)), patience_.longest_retry_after);
  }
  if (overload) limit_.OnOverload(request.sent, now);
  if (request.task != nullptr && status == 200 && !failure) refusals_ = 0;
  if (request.task != nullptr && result == absl::string_view("rejected")) ++refusals_;
  gauges_->reachable.Set(failure || RefusesAll() ? 0 : 1);

  if (request.task == nullptr) {
    probing_ = false;
    if (failure || overload) {
      SayWaiting(reason);
      breaker_.OnProbe(false, now);
    } else {
      CompleteProbe(request, status);
    }
    return;
  }

  std::unique_ptr<Task> task = std::move(request.task);
  if (status == 200 && curl_code == CURLE_OK && !failure) {
    if (answer.empty && ++task->empty_answers < patience_.most_empty_answers) {
      Retry(std::move(task), now);
      return;
    }
    ++answers_;
    limit_.OnAnswer();
    breaker_.OnAnswer();
    if (answer.next.has_value()) {
      task->progress = *std::move(answer.next);
      tasks_.insert(tasks_.begin(), std::move(task));
      return;
    }
    answer.verdict.raw = Presentable(answer.verdict.raw, std::string::npos);
    task->done(std::move(answer.verdict));
    return;
  }
  if (!failure && !overload) {  // refused: the same query would be refused again
    if (RefusesAll()) {
      SayWaiting(
          absl::StrCat("it answers a plain request and refuses every query, the last with ", status, ": ", said));
      breaker_.OnRefusals(now);
    }
    Verdict verdict;
    verdict.raw = absl::StrCat("HTTP ", status, ": ", Presentable(request.response, 2000));
    task->done(std::move(verdict));
    return;
  }
  if (failure) breaker_.OnFailure(now);
  if (breaker_.state(now) != CircuitBreaker::kClosed) SayWaiting(reason);
  // A query that fails again and again while others are answered is itself what is wrong.
  if (failure && answers_ > task->answers_seen) {
    task->answers_seen = answers_;
    if (++task->tries >= patience_.most_tries) {
      Verdict verdict;
      verdict.raw = absl::StrCat("given up after ", task->tries, " tries while others were answered: ", reason);
      task->done(std::move(verdict));
      return;
    }
  }
  Retry(std::move(task), now);
}

void OpenAiJudge::CompleteProbe(Request& request, long status) {
  std::string found;
  switch (api_->OnProbe(status, request.response, &found)) {
    case ServerApi::Probed::kAskAgain:
      return;  // half open still: the next probe goes out at once
    case ServerApi::Probed::kRefused:
      SayWaiting(absl::StrCat("it refuses a plain request with ", status, ": ", Presentable(request.response, 300)));
      breaker_.OnProbe(false, clock_.Now());
      return;
    case ServerApi::Probed::kUsable:
      // A query that fails while probes are answered is itself what is wrong.
      ++answers_;
      if (char* url = nullptr; Redirected(request.easy, &url)) {
        absl::StrAppend(&found, "; it redirects to ", url, ", set annotator.openai.url to the address there");
      }
      if (found != found_ || (!waiting_for_.empty() && !RefusesAll())) {
        spdlog::info("judge {} at {}: {}", config_.model(), ShownUrl(), found);
      }
      found_ = found;
      if (!RefusesAll()) SayWaiting("");
      breaker_.OnProbe(true, clock_.Now());
  }
}

void OpenAiJudge::Retry(std::unique_ptr<Task> task, absl::Time now) {
  task->not_before = now + task->backoff->Next();
  task->retried = true;
  tasks_.push_back(std::move(task));
}

void OpenAiJudge::SayWaiting(const std::string& reason) {
  if (reason == waiting_for_) return;
  waiting_for_ = reason;
  if (!reason.empty()) {
    spdlog::warn("waiting for the judge at {}: {}; queries are kept, and it is tried again", ShownUrl(), reason);
  }
}

void OpenAiJudge::UpdateGauges(absl::Time now) {
  gauges_->limit.Set(limit_.limit());
  gauges_->breaker.Set(breaker_.state(now));
  gauges_->requests_in_flight.Set(static_cast<double>(requests_.size()));
}

std::string OpenAiJudge::Presentable(const std::string& text, size_t limit) const {
  // The key goes before the cut: half a key is no less secret.
  const std::string shown = key_.empty() ? text : absl::StrReplaceAll(text, {{key_, "<key>"}});
  return ValidUtf8(absl::string_view(shown).substr(0, limit));
}

std::string OpenAiJudge::ShownUrl() const {
  const std::string& url = config_.url();
  const size_t scheme = url.find("://");
  const size_t host = scheme == std::string::npos ? 0 : scheme + 3;
  const size_t at = url.substr(0, url.find('/', host)).rfind('@');
  return at == std::string::npos || at < host ? url : absl::StrCat(url.substr(0, host), url.substr(at + 1));
}

}  // namespace sibyl::annotator
