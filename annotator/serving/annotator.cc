#include "annotator/serving/annotator.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "annotator/questions/question.h"
#include "common/log.h"
#include "common/runtime/stop.h"

namespace sibyl::annotator {

struct Annotator::Gauges {
  explicit Gauges(Metrics& metrics)
      : in_flight(metrics.Gauge("sibyl_annotator_in_flight_queries",
                                "Queries that the judge has, or whose label is being committed.")),
        prompt_tokens(Tokens(metrics, "prompt")),
        completion_tokens(Tokens(metrics, "completion")) {
    for (const char* outcome : {"accepted", "known", "duplicate", "full", "refused"}) {
      queries[outcome] = &metrics.Counter("sibyl_annotator_queries_total", "Queries offered, by what became of them.",
                                          {{"outcome", outcome}});
    }
    const std::map<v1::Outcome, std::string> names = {{v1::OUTCOME_ANSWERED, "answered"},
                                                      {v1::OUTCOME_ABSTAINED, "abstained"},
                                                      {v1::OUTCOME_UNPARSABLE, "unparsable"},
                                                      {v1::OUTCOME_FAILED, "failed"}};
    for (const auto& [outcome, name] : names) {
      labels[outcome] =
          &metrics.Counter("sibyl_annotator_labels_total", "Labels committed, by outcome.", {{"outcome", name}});
    }
  }

  static prometheus::Counter& Tokens(Metrics& metrics, const std::string& direction) {
    return metrics.Counter("sibyl_annotator_tokens_total", "Tokens of answered queries, as the server counts them.",
                           {{"direction", direction}});
  }

  prometheus::Gauge& in_flight;
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& completion_tokens;
  std::map<std::string, prometheus::Counter*> queries;
  std::map<v1::Outcome, prometheus::Counter*> labels;
};

Annotator::Annotator(std::unique_ptr<Judge> judge, std::unique_ptr<LabelLog> log, uint64_t capacity, const Host& host,
                     std::function<void()> on_label, absl::Duration look_for_failed)
    : capacity_(capacity),
      on_label_(std::move(on_label)),
      look_for_failed_(look_for_failed),
      clock_(host.clock),
      gauges_(std::make_unique<Gauges>(host.metrics)),
      log_(std::move(log)),
      judge_(std::move(judge)),
      heartbeat_(host.heartbeats.Add("dispatch", kLongestSilence)) {
  std::vector<WaitingQuery> found = log_->TakeWaiting();
  if (!found.empty()) spdlog::info("{} queries were accepted before and wait for their answer", found.size());
  if (log_->set_aside() > 0) {
    spdlog::warn("{} queries in the log were accepted for another judge, prompt or sampling; they wait for it",
                 log_->set_aside());
  }
  Add(std::move(found));
  dispatcher_ = std::make_unique<Worker>(
      "dispatch", [this](const std::stop_token& stop) { return Dispatch(stop); }, host.fail);
}

Annotator::~Annotator() {
  dispatcher_.reset();
  if (const absl::Status status = log_->Close(); !status.ok()) spdlog::error("{}", status.message());
  judge_.reset();
  log_.reset();
}

absl::Status Annotator::Close() { return log_->Close(); }

void Annotator::Add(std::vector<WaitingQuery> queries) {
  if (queries.empty()) return;
  MutexLock lock(mutex_);
  for (WaitingQuery& query : queries) waiting_.push(std::move(query));
  changed_.NotifyAll();
}

void Annotator::AskAgain(std::vector<v1::Outcome> outcomes) {
  log_->AskAgain(std::move(outcomes), [this](absl::StatusOr<std::vector<WaitingQuery>> found) {
    if (!found.ok() || found->empty()) return;
    spdlog::info("{} queries that got no answer are asked again", found->size());
    Add(*std::move(found));
  });
}

void Annotator::Ask(const v1::AskRequest& request, std::function<void(absl::StatusOr<v1::AskResponse>)> done) {
  absl::Status refused;
  if (request.queries_size() > kMaxQueriesAnAsk) {
    refused = absl::InvalidArgumentError(
        absl::StrCat("queries has ", request.queries_size(), " entries, may have at most ", kMaxQueriesAnAsk));
  }
  for (int i = 0; i < request.queries_size() && refused.ok(); ++i) {
    absl::Status status = CheckQuery(request.queries(i));
    if (status.ok()) status = judge_->Check(request.queries(i));
    if (!status.ok()) refused = absl::InvalidArgumentError(absl::StrCat("queries[", i, "]: ", status.message()));
  }
  if (refused.ok()) {
    MutexLock lock(mutex_);
    if (draining_) refused = absl::UnavailableError("the annotator is stopping; ask again when it is back");
  }
  if (!refused.ok()) {
    gauges_->queries.at("refused")->Increment(request.queries_size());
    done(refused);
    return;
  }
  std::vector<v1::Query> queries(request.queries().begin(), request.queries().end());
  log_->Ask(std::move(queries),
            [this, count = request.queries_size(), done = std::move(done)](absl::StatusOr<AskResult> result) {
              if (!result.ok()) {
                gauges_->queries.at("refused")->Increment(count);
                done(result.status());
                return;
              }
              Add(std::move(result->accepted));
              v1::AskResponse response;
              response.set_room(static_cast<uint32_t>(result->room));
              for (v1::AskOutcome& outcome : result->outcomes) {
                const char* name = outcome.kind() == v1::AskOutcome::KIND_KNOWN       ? "known"
                                   : outcome.kind() == v1::AskOutcome::KIND_ACCEPTED  ? "accepted"
                                   : outcome.kind() == v1::AskOutcome::KIND_DUPLICATE ? "duplicate"
                                                                                      : "full";
                gauges_->queries.at(name)->Increment();
                if (outcome.has_label()) {
                  // The same identity: this judge's answer to this prompt, under whatever names it was asked.
                  outcome.mutable_label()->set_judge(judge_->name());
                  outcome.mutable_label()->set_prompt(judge_->prompt());
                }
                *response.add_outcomes() = std::move(outcome);
              }
              done(std::move(response));
            });
}

absl::StatusOr<v1::LabelBatch> Annotator::Read(const v1::LabelsRequest& request, int rows) {
  return log_->Read(request, rows);
}

v1::DescribeResponse Annotator::Describe() const {
  v1::DescribeResponse response;
  response.set_judge(judge_->name());
  response.set_prompt(judge_->prompt());
  response.set_waiting(log_->waiting());
  response.set_capacity(capacity_);
  response.set_labels(log_->last_sequence());
  response.set_log_id(log_->log_id());
  response.set_waits_for(judge_->waits_for());
  return response;
}

absl::Status Annotator::Dispatch(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, changed_);
  absl::Time look_at = clock_.Now();
  while (!stop.stop_requested()) {
    heartbeat_->Beat();
    WaitingQuery query;
    bool look = false;
    {
      MutexLock lock(mutex_);
      const auto idle = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return draining_ || waiting_.empty() || in_flight_ >= judge_->capacity();
      };
      const auto due = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !draining_ && clock_.Now() >= look_at; };
      if (idle() && !due() && !stop.stop_requested()) {
        const absl::Duration left = draining_ ? absl::InfiniteDuration() : look_at - clock_.Now();
        clock_.WaitFor(changed_, mutex_, std::min(absl::Seconds(1), left));
      }
      look = due();
      if (!look) {
        if (idle()) continue;
        query = waiting_.top();
        waiting_.pop();
        gauges_->in_flight.Set(++in_flight_);
      }
    }
    if (look) {
      look_at = clock_.Now() + look_for_failed_;
      AskAgain({});
      continue;
    }
    judge_->Answer(query.query, [this, query](Verdict verdict) { OnVerdict(query, std::move(verdict)); });
  }
  return absl::OkStatus();
}

void Annotator::OnVerdict(const WaitingQuery& query, Verdict verdict) {
  if (!verdict.asked) {
    MutexLock lock(mutex_);
    gauges_->in_flight.Set(--in_flight_);
    changed_.NotifyAll();
    return;
  }
  v1::Label entry;
  entry.set_outcome(verdict.outcome);
  *entry.mutable_answer() = std::move(verdict.answer);
  entry.set_judge(judge_->name());
  entry.set_prompt(judge_->prompt());
  entry.set_raw(std::move(verdict.raw));
  entry.set_prompt_tokens(verdict.prompt_tokens);
  entry.set_completion_tokens(verdict.completion_tokens);
  log_->Append(query, std::move(entry), [this](absl::StatusOr<v1::Label> label) {
    // A log that failed ends the process; the query is asked again by the next one.
    if (!label.ok()) return;
    gauges_->labels.at(label->outcome())->Increment();
    gauges_->prompt_tokens.Increment(static_cast<double>(label->prompt_tokens()));
    gauges_->completion_tokens.Increment(static_cast<double>(label->completion_tokens()));
    {
      MutexLock lock(mutex_);
      gauges_->in_flight.Set(--in_flight_);
      changed_.NotifyAll();
    }
    on_label_();
  });
}

int Annotator::Drain(absl::Duration limit) {
  const absl::Time until = clock_.Now() + limit;
  {
    MutexLock lock(mutex_);
    draining_ = true;
    changed_.NotifyAll();
  }
  judge_->StopAsking();
  MutexLock lock(mutex_);
  while (in_flight_ > 0 && clock_.Now() < until) clock_.WaitFor(changed_, mutex_, until - clock_.Now());
  return in_flight_;
}

}  // namespace sibyl::annotator
