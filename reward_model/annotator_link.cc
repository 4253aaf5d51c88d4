#include "reward_model/annotator_link.h"

#include "absl/strings/str_cat.h"
#include "common/backoff.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace sibyl::reward_model {
namespace {

// Waits between attempts to reach the annotator.
constexpr absl::Duration kFirstWait = absl::Milliseconds(100), kLongestWait = absl::Seconds(5);

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

absl::Status FollowOnce(Coordinator& model, LabelSource& source) {
  SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse annotator, source.Describe());
  const absl::Status ended =
      source.Follow(model.ConnectAnnotator(annotator), [&](const v1::LabelBatch& batch) { model.OnLabels(batch); });
  model.DisconnectAnnotator();
  return ended;
}

absl::StatusOr<int> AskOnce(Coordinator& model, LabelSource& source) {
  const Questions questions = model.TakeQuestions();
  if (questions.request.queries_size() > 0) SIBYL_RETURN_IF_ERROR(Offer(model, source, questions));
  return questions.request.queries_size();
}

AnnotatorLink::AnnotatorLink(Coordinator& model, LabelSource& source, Shutdown& shutdown, const std::string& name,
                             uint64_t seed)
    : model_(model),
      source_(source),
      shutdown_(shutdown),
      name_(name),
      labels_([this, seed] { FollowLabels(seed); }),
      asker_([this, seed] { Ask(seed + 1); }) {}

AnnotatorLink::~AnnotatorLink() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    stopped_.NotifyAll();
  }
  source_.Cancel();
  labels_.join();
  asker_.join();
}

void AnnotatorLink::FollowLabels(uint64_t seed) {
  NameThread("labels");
  Backoff backoff(kFirstWait, kLongestWait, seed);
  bool said = false;
  while (true) {
    const double connections = model_.metrics().annotator_connections.Value();
    const absl::Status ended = FollowOnce(model_, source_);
    if (model_.metrics().annotator_connections.Value() > connections) {
      backoff.Reset();
      said = false;
    }
    if (IsPermanent(ended)) {
      shutdown_.Fail(absl::Status(ended.code(), absl::StrCat("annotator ", name_, ": ", ended.message())));
      return;
    }
    if (!Sleep(absl::ZeroDuration())) return;
    if (!said) spdlog::warn("waiting for the annotator {}: {}", name_, ended.ToString());
    said = true;
    if (!Sleep(backoff.Next())) return;
  }
}

void AnnotatorLink::Ask(uint64_t seed) {
  NameThread("asker");
  Backoff backoff(kFirstWait, kLongestWait, seed);
  while (Sleep(absl::ZeroDuration())) {
    model_.WaitUntilAskable(absl::Milliseconds(100));
    const absl::StatusOr<int> asked = AskOnce(model_, source_);
    if (asked.ok()) {
      backoff.Reset();
    } else if (IsPermanent(asked.status())) {
      shutdown_.Fail(
          absl::Status(asked.status().code(), absl::StrCat("annotator ", name_, ": ", asked.status().message())));
      return;
    } else if (!Sleep(backoff.Next())) {
      return;
    }
  }
}

bool AnnotatorLink::Sleep(absl::Duration time) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(time);
  MutexLock lock(mutex_);
  while (!stop_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero()) break;
    stopped_.WaitFor(mutex_, left);
  }
  return !stop_;
}

}  // namespace sibyl::reward_model
