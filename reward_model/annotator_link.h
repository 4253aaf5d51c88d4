#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "common/runtime/worker.h"
#include "reward_model/coordinator.h"
#include "reward_model/label_source.h"

namespace sibyl::reward_model {

// Connects, and hands labels to the model until the connection ends. Returns why it ended, never OK. `heartbeat` rests
// while the link waits for labels; nullptr: nobody watches.
absl::Status FollowOnce(Coordinator& model, LabelSource& source, Heartbeat* heartbeat = nullptr);

// Asks the annotator what the model wants to ask now, perhaps nothing. Returns the number of queries. A query that the
// annotator refuses is set aside and is no error.
absl::StatusOr<int> AskOnce(Coordinator& model, LabelSource& source);

// Connects a reward model with an annotator. The thread "labels" follows the label log; the thread "asker" asks. While
// the annotator is away, both try again with jittered backoff. An error that another try would meet again reaches
// `on_failure`.
class AnnotatorLink {
 public:
  // All references outlive this. `name`: the annotator's, for the log. `seed`: of the jitter.
  AnnotatorLink(Coordinator& coordinator, LabelSource& source, const std::string& name, uint64_t seed, Clock& clock,
                Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure);
  // Cancels `source` and waits for both threads.
  ~AnnotatorLink();

 private:
  absl::Status FollowLabels(uint64_t seed, const std::stop_token& stop);
  absl::Status Ask(uint64_t seed, const std::stop_token& stop);
  // The error with which a thread ends.
  absl::Status Permanent(const absl::Status& status) const;

  Coordinator& coordinator_;
  LabelSource& source_;
  const std::string name_;
  Clock& clock_;
  Heartbeats& heartbeats_;
  Worker labels_, asker_;
};

}  // namespace sibyl::reward_model
