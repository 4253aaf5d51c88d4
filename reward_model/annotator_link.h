#pragma once

#include <thread>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/shutdown.h"
#include "reward_model/label_source.h"
#include "reward_model/coordinator.h"

namespace sibyl::reward_model {

// Connects, and hands over labels until the connection ends; says why it ended, never OK.
absl::Status FollowOnce(Coordinator& model, LabelSource& source);

// Asks what is to be asked now, perhaps nothing; the number of queries offered. A query that the annotator refuses is
// set aside, and is no error.
absl::StatusOr<int> AskOnce(Coordinator& model, LabelSource& source);

// Keeps a reward model and an annotator together: one thread follows the labels, one asks. Where the annotator is away
// both try again with jittered backoff, for ever; an error that trying again does not mend ends the process.
class AnnotatorLink {
 public:
  // All three must outlive this. `name` is the annotator's, for the log; `seed` of the jitter.
  AnnotatorLink(Coordinator& model, LabelSource& source, Shutdown& shutdown, const std::string& name, uint64_t seed);
  // Cancels `source` and waits for both threads.
  ~AnnotatorLink();

 private:
  void FollowLabels(uint64_t seed);
  void Ask(uint64_t seed);
  // False when it is time to stop.
  bool Sleep(absl::Duration time);

  Coordinator& model_;
  LabelSource& source_;
  Shutdown& shutdown_;
  const std::string name_;
  Mutex mutex_;
  CondVar stopped_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread labels_, asker_;
};

}  // namespace sibyl::reward_model
