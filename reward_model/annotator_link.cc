#include "reward_model/annotator_link.h"

#include "absl/strings/str_cat.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"

namespace sibyl::reward_model {
namespace {

// Waits between attempts to reach the annotator.
constexpr absl::Duration kFirstWait = absl::Milliseconds(100), kLongestWait = absl::Seconds(5);

// An answer about many queries, each asked by itself, takes less.
constexpr absl::Duration kHangs = absl::Minutes(1);

// No later attempt will do better.
bool IsPermanent(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status);
}

absl::Status Offer(Coordinator& model, LabelSource& source, const Questions& questions) {
  const absl::StatusOr<v1::AskResponse> response = source.Ask(questions.request);
  if (response.ok()) {
    model.OnAnswers(questions, *response);
    return absl::OkStatus();
  }
  if (!absl::IsInvalidArgument(response.status())) {
    model.OnAskFailed(questions);
    return response.status();
  }
  if (questions.request.queries_size() == 1) {
    model.OnRefused(questions, response.status());
    return absl::OkStatus();
  }
  // One of them is not acceptable: each by itself, so that the others do not suffer.
  absl::Status status;
  for (const v1::Query& query : questions.request.queries()) {
    Questions one;
    one.connection = questions.connection;
    *one.request.add_queries() = query;
    if (status.ok()) {
      status = Offer(model, source, one);
    } else {
      model.OnAskFailed(one);
    }
  }
  return status;
}

}  // namespace

absl::Status FollowOnce(Coordinator& model, LabelSource& source, Heartbeat* heartbeat) {
  SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse annotator, source.Describe());
  const v1::LabelsRequest request = model.ConnectAnnotator(annotator);
  if (heartbeat != nullptr) heartbeat->Rest();
  const absl::Status ended = source.Follow(request, [&](const v1::LabelBatch& batch) {
    if (heartbeat != nullptr) heartbeat->Beat();
    model.OnLabels(batch);
    if (heartbeat != nullptr) heartbeat->Rest();
  });
  if (heartbeat != nullptr) heartbeat->Beat();
  model.DisconnectAnnotator();
  return ended;
}

absl::StatusOr<int> AskOnce(Coordinator& model, LabelSource& source) {
  const Questions questions = model.TakeQuestions();
  if (questions.request.queries_size() > 0) SIBYL_RETURN_IF_ERROR(Offer(model, source, questions));
  return questions.request.queries_size();
}

AnnotatorLink::AnnotatorLink(Coordinator& coordinator, LabelSource& source, const std::string& name, uint64_t seed,
                             Clock& clock, Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure)
    : coordinator_(coordinator),
      source_(source),
      name_(name),
      clock_(clock),
      heartbeats_(heartbeats),
      labels_(
          "labels", [this, seed](const std::stop_token& stop) { return FollowLabels(seed, stop); }, on_failure),
      asker_(
          "asker", [this, seed](const std::stop_token& stop) { return Ask(seed + 1, stop); }, on_failure) {}

AnnotatorLink::~AnnotatorLink() {
  labels_.RequestStop();
  asker_.RequestStop();
  source_.Cancel();
}

absl::Status AnnotatorLink::Permanent(const absl::Status& status) const {
  return absl::Status(status.code(), absl::StrCat("annotator ", name_, ": ", status.message()));
}

absl::Status AnnotatorLink::FollowLabels(uint64_t seed, const std::stop_token& stop) {
  Backoff backoff(kFirstWait, kLongestWait, seed);
  bool said = false;
  const std::unique_ptr<Heartbeat> heartbeat = heartbeats_.Add("labels", kHangs);
  while (true) {
    heartbeat->Beat();
    const double connections = coordinator_.metrics().annotator_connections.Value();
    const absl::Status ended = FollowOnce(coordinator_, source_, heartbeat.get());
    if (coordinator_.metrics().annotator_connections.Value() > connections) {
      backoff.Reset();
      said = false;
    }
    if (stop.stop_requested()) return absl::OkStatus();
    if (IsPermanent(ended)) return Permanent(ended);
    if (!said) spdlog::warn("waiting for the annotator {}: {}", name_, ended.ToString());
    said = true;
    if (WaitForStop(stop, clock_, backoff.Next())) return absl::OkStatus();
  }
}

absl::Status AnnotatorLink::Ask(uint64_t seed, const std::stop_token& stop) {
  Backoff backoff(kFirstWait, kLongestWait, seed);
  const std::unique_ptr<Heartbeat> heartbeat = heartbeats_.Add("asker", kHangs);
  while (!stop.stop_requested()) {
    heartbeat->Beat();
    coordinator_.WaitUntilAskable(absl::Milliseconds(100));
    const absl::StatusOr<int> asked = AskOnce(coordinator_, source_);
    if (asked.ok()) {
      backoff.Reset();
    } else if (stop.stop_requested()) {
      break;
    } else if (IsPermanent(asked.status())) {
      return Permanent(asked.status());
    } else {
      WaitForStop(stop, clock_, backoff.Next());
    }
  }
  return absl::OkStatus();
}

}  // namespace sibyl::reward_model
