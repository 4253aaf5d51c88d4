#include "annotator/serving/annotator.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "annotator/judges/quota.h"
#include "annotator/questions/question.h"
#include "common/log.h"
#include "common/runtime/stop.h"

namespace sibyl::annotator {

struct Annotator::Gauges {
  explicit Gauges(Metrics& metrics)
      : in_flight(metrics.Gauge("sibyl_annotator_in_flight_queries",
                                "Queries that the judge has, or whose label is being committed.")),
        metrics(metrics) {
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

  prometheus::Gauge& in_flight;
  Metrics& metrics;
  std::map<std::string, prometheus::Counter*> queries;
  std::map<v1::Outcome, prometheus::Counter*> labels;
};

Annotator::Annotator(std::unique_ptr<Judge> judge, std::unique_ptr<LabelLog> log, uint64_t capacity, const Host& host,
                     std::function<void()> on_label, const std::vector<GoldItem>& gold, absl::Duration look_for_failed)
    : capacity_(capacity),
      on_label_(std::move(on_label)),
      look_for_failed_(look_for_failed),
      clock_(host.clock),
      gauges_(std::make_unique<Gauges>(host.metrics)),
      quality_(gold, host.metrics),
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
  std::vector<Spent> today;
  if (const absl::StatusOr<v1::SpendingResponse> spending = log_->Spending(); spending.ok()) {
    for (const v1::SpendingResponse::Row& row : spending->rows()) {
      if (row.day() == DayOf(clock_.Now())) today.push_back({row.endpoint(), row.cost()});
    }
  }
  judge_->Report({[this](const RequestEnd& request) { OnRequest(request); },
                  [this](const std::string& served) { log_->SetServed(served); }, /*verdicts_are_written=*/true},
                 log_->served(), today);
  dispatcher_ = std::make_unique<Worker>(
      "dispatch", [this](const std::stop_token& stop) { return Dispatch(stop); }, host.fail);
  log_->Follow({[this](std::vector<WaitingQuery> queries) { Add(std::move(queries)); }, on_label_});
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

void Annotator::AskAgain() {
  log_->AskAgain([this](absl::StatusOr<std::vector<WaitingQuery>> found) {
    if (!found.ok() || found->empty()) return;
    spdlog::info("{} queries that failed are asked again after their cool-down", found->size());
    Add(*std::move(found));
  });
}

void Annotator::Edit(v1::EditRequest request, std::function<void(absl::StatusOr<v1::EditResponse>)> done) {
  {
    MutexLock lock(mutex_);
    if (draining_) return done(absl::UnavailableError("the annotator is stopping; try again when it is back"));
  }
  log_->Edit(std::move(request), [this, done = std::move(done)](absl::StatusOr<EditResult> result) {
    if (!result.ok()) return done(result.status());
    v1::EditResponse response;
    response.set_changed(result->changed);
    Add(std::move(result->waiting));
    on_label_();  // there may be new entries
    done(std::move(response));
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
  std::vector<v1::Query> for_gold;
  if (quality_.has_gold()) for_gold = queries;
  log_->Ask(std::move(queries), [this, for_gold = std::move(for_gold), count = request.queries_size(),
                                 done = std::move(done)](absl::StatusOr<AskResult> result) {
    if (!result.ok()) {
      gauges_->queries.at("refused")->Increment(count);
      done(result.status());
      return;
    }
    Add(std::move(result->accepted));
    v1::AskResponse response;
    response.set_room(static_cast<uint32_t>(result->room));
    for (size_t i = 0; i < result->outcomes.size(); ++i) {
      v1::AskOutcome& outcome = result->outcomes[i];
      if (outcome.has_label() && i < for_gold.size()) {
        quality_.OnKnown(for_gold[i], outcome.label().answer());
      }
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
      AskAgain();
      continue;
    }
    judge_->Answer(query.query, [this, query](Verdict verdict) { OnVerdict(query, std::move(verdict)); });
  }
  return absl::OkStatus();
}

void Annotator::OnVerdict(const WaitingQuery& query, Verdict verdict) {
  if (!verdict.asked) {
    EndOne();
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
  entry.set_cost(verdict.cost);
  if (verdict.outcome != v1::OUTCOME_ANSWERED) {
    entry.set_reason(!verdict.reason.empty()                    ? verdict.reason
                     : verdict.outcome == v1::OUTCOME_ABSTAINED ? "the judge abstained"
                                                                : "the judge gave no label");
  }
  log_->Append(query, std::move(entry), [this](absl::StatusOr<v1::Label> label) {
    if (label.ok() || absl::IsAlreadyExists(label.status())) judge_->Written();
    if (absl::IsAlreadyExists(label.status())) return EndOne();  // a person's label stands
    // A log that failed ends the process; the query is asked again by the next one.
    if (!label.ok()) return;
    gauges_->labels.at(label->outcome())->Increment();
    quality_.OnLabel(*label, log_->served());
    EndOne();
    on_label_();
  });
}

void Annotator::EndOne() {
  MutexLock lock(mutex_);
  gauges_->in_flight.Set(--in_flight_);
  changed_.NotifyAll();
}

void Annotator::OnRequest(const RequestEnd& request) {
  for (const auto& [direction, tokens] :
       {std::pair("prompt", request.prompt_tokens), std::pair("completion", request.completion_tokens)}) {
    if (tokens == 0) continue;
    gauges_->metrics
        .Counter("sibyl_annotator_tokens_total", "Tokens of all requests, as the servers count them.",
                 {{"direction", direction}, {"endpoint", request.endpoint}, {"model", request.model}})
        .Increment(static_cast<double>(tokens));
  }
  if (request.cost > 0) {
    gauges_->metrics
        .Counter("sibyl_annotator_cost_total", "Money that all requests have cost.",
                 {{"endpoint", request.endpoint}, {"model", request.model}})
        .Increment(request.cost);
  }
  log_->AddRequest(request);
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
