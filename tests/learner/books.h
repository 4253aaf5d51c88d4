#pragma once

#include <vector>

#include "absl/status/status.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/actor_sink.h"
#include "tests/heartbeat_watch.h"
#include "tests/process.h"

namespace sibyl::learner {

// The learner's books, small, and the watch over the loops that write into them.
struct TestBooks {
  TestBooks(const UnrollShape& shape, int capacity, uint64_t steps = 0)
      : unrolls(shape, capacity, &Clock::Real()), steps(steps, &metrics) {}

  ExperienceBooks books() { return {&unrolls, &captions, &episodes, &steps}; }
  // Captions' ids by their rows.
  std::vector<uint64_t> Ids(const std::vector<int32_t>& rows) const {
    std::vector<uint64_t> ids(rows.size());
    captions.Ids(rows, ids.data());
    return ids;
  }
  // As training takes them; their captions stay pinned.
  Unrolls Finished(int count) {
    Unrolls finished;
    EXPECT_TRUE(Eventually([&] { return unrolls.finished() >= count; }));
    EXPECT_TRUE(unrolls.PopFinished(count, &finished));
    return finished;
  }
  void Unpin(const Unrolls& finished) {
    for (const auto& unroll : finished) captions.Unpin(unroll->CaptionRows(unrolls.shape().length));
  }

  Metrics metrics;
  UnrollPool unrolls;
  CaptionTable captions{1000};
  EpisodeStats episodes{100, {}};
  StepCounter steps;
  HeartbeatWatch watch;
};

// What an actor of either kind was told. Any thread.
template <typename Sink>
class RecordingSink : public Sink {
 public:
  void RequestTexts(v1::CaptionTextRequest request) override {
    MutexLock lock(mutex_);
    wanted_.insert(wanted_.end(), request.ids().begin(), request.ids().end());
  }
  void Refuse(const absl::Status& status) override {
    MutexLock lock(mutex_);
    refused_ = status;
  }
  std::vector<uint64_t> wanted() {
    MutexLock lock(mutex_);
    return wanted_;
  }
  absl::Status refused() {
    MutexLock lock(mutex_);
    return refused_;
  }

 protected:
  Mutex mutex_;

 private:
  std::vector<uint64_t> wanted_ ABSL_GUARDED_BY(mutex_);
  absl::Status refused_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::learner
