#pragma once

#include "learner/experience/caption_table.h"
#include "learner/serving/actor_streams.h"
#include "learner/serving/inference.h"
#include "sibyl/v1/act.grpc.pb.h"

namespace sibyl::learner {

// Translates Act streams into calls of Inference and CaptionTable. Any thread.
class ActService : public v1::ActService::CallbackService {
 public:
  // All pointers outlive the server that serves this.
  ActService(ActorStreams* streams, Inference* inference, CaptionTable* captions)
      : streams_(streams), inference_(inference), captions_(captions) {}

  grpc::ServerBidiReactor<v1::ActorMessage, v1::LearnerMessage>* Act(grpc::CallbackServerContext* context) override;

 private:
  friend class ActStream;

  ActorStreams* const streams_;
  Inference* const inference_;
  CaptionTable* const captions_;
};

}  // namespace sibyl::learner
