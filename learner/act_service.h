#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "learner/caption_table.h"
#include "learner/inference.h"
#include "learner/slots.h"
#include "sibyl/v1/act.grpc.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::learner {

class ActStream;

// Translates Act streams into calls of Slots, Inference and CaptionTable. Any thread.
class ActService : public v1::ActService::CallbackService {
 public:
  // All pointers outlive the server that serves this.
  ActService(const v1::Experiment& experiment, const v1::EnvironmentSpec& spec, std::string run_id, Slots* slots,
             Inference* inference, CaptionTable* captions, Clock* clock, Metrics* metrics);

  grpc::ServerBidiReactor<v1::ActorMessage, v1::LearnerMessage>* Act(grpc::CallbackServerContext* context) override;

  // Ends the streams of actors that have owed a step for longer than actor.silence_seconds. Call about once a second.
  void CloseSilent();
  // Refuses new streams and ends those there are: actors reconnect elsewhere or later.
  void CloseAll();

 private:
  friend class ActStream;
  void Register(uint32_t slot, std::shared_ptr<ActStream> stream);
  void Forget(const ActStream* stream);

  const v1::Experiment experiment_;
  const v1::EnvironmentSpec spec_;
  const std::string run_id_;
  Slots* const slots_;
  Inference* const inference_;
  CaptionTable* const captions_;
  Clock* const clock_;
  prometheus::Gauge& connected_;
  prometheus::Counter& streams_;
  prometheus::Counter& refused_;
  prometheus::Counter& silent_;

  Mutex mutex_;
  absl::flat_hash_map<uint32_t, std::shared_ptr<ActStream>> by_slot_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sibyl::learner
