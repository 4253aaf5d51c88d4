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

// Connects, and hands over labels until the connection ends; says why it ended, never OK. `heartbeat`
// rests while labels are waited for; nullptr: nobody watches.
absl::Status FollowOnce(Coordinator& model, LabelSource& source, Heartbeat* heartbeat = nullptr);

// Asks what is to be asked now, perhaps nothing; the number of queries offered. A query that the annotator refuses is
// set aside, and is no error.
absl::StatusOr<int> AskOnce(Coordinator& model, LabelSource& source);

// Keeps a reward model and an annotator together: one thread follows the labels, one asks. Where the annotator is away
// both try again with jittered backoff, for ever; an error that trying again does not mend reaches `on_failure`.
class AnnotatorLink {
 public:
  // All must outlive this. `name` is the annotator's, for the log; `seed` of the jitter.
  AnnotatorLink(Coordinator& coordinator, LabelSource& source, const std::string& name, uint64_t seed, Clock& clock,
                Heartbeats& heartbeats, std::function<void(absl::Status)> on_failure);
  // Cancels `source` and waits for both threads.
  ~AnnotatorLink();

 private:
  absl::Status FollowLabels(uint64_t seed, const std::stop_token& stop);
  absl::Status Ask(uint64_t seed, const std::stop_token& stop);
  // The error of a thread that cannot go on.
  absl::Status Permanent(const absl::Status& status) const;

  Coordinator& coordinator_;
  LabelSource& source_;
  const std::string name_;
  Clock& clock_;
  Heartbeats& heartbeats_;
  Worker labels_, asker_;
};

}  // namespace sibyl::reward_model
