#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "annotator/store/label_log.h"
#include "common/metrics.h"
#include "sibyl/v1/annotator.pb.h"

// What the label logs on SQLite and PostgreSQL share.

namespace sibyl::annotator {

// A call of a label log that waits for the writing thread, with its result.
struct LogJob {
  // One of the callbacks is set, or `served`.
  std::vector<v1::Query> queries;
  AskResult result;
  std::function<void(absl::StatusOr<AskResult>)> asked;

  int64_t query_id = 0;
  v1::Label label;
  std::function<void(absl::StatusOr<v1::Label>)> appended;

  std::vector<WaitingQuery> found;
  std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> asked_again;

  v1::EditRequest edit;
  EditResult changed;
  std::function<void(absl::StatusOr<EditResult>)> edited;

  std::optional<std::string> served;

  // Why this job alone was not done.
  absl::Status error;

  void Succeed() {
    if (!error.ok()) return Refuse(error);
    if (asked) asked(std::move(result));
    if (appended) appended(std::move(label));
    if (asked_again) asked_again(std::move(found));
    if (edited) edited(std::move(changed));
  }
  void Refuse(const absl::Status& status) {
    if (asked) asked(status);
    if (appended) appended(status);
    if (asked_again) asked_again(status);
    if (edited) edited(status);
  }
};

// The metrics of a label log, whatever keeps it.
struct LogGauges {
  explicit LogGauges(Metrics& metrics)
      : commits(metrics.Counter("sibyl_annotator_commits_total", "Transactions committed to the label store.")),
        commit_seconds(metrics.Histogram("sibyl_annotator_commit_seconds",
                                         "Seconds that a transaction took, its sync included.",
                                         {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5})),
        jobs(metrics.Gauge("sibyl_annotator_store_calls", "Calls in the transaction that is being written.")),
        waiting(metrics.Gauge("sibyl_annotator_waiting_queries", "Queries accepted and not answered.")),
        labels(metrics.Gauge("sibyl_annotator_log_labels", "Labels in the log.")) {}

  prometheus::Counter& commits;
  prometheus::Histogram& commit_seconds;
  prometheus::Gauge& jobs;
  prometheus::Gauge& waiting;
  prometheus::Gauge& labels;
};

}  // namespace sibyl::annotator
