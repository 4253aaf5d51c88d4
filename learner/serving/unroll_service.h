#pragma once

#include "common/metrics.h"
#include "learner/experience/caption_table.h"
#include "learner/serving/actor_streams.h"
#include "learner/serving/shared_weights.h"
#include "learner/serving/unroll_receiver.h"
#include "sibyl/v1/unroll.grpc.pb.h"

namespace sibyl::learner {

// Translates the streams of local actors into calls of UnrollReceiver, SharedWeights and CaptionTable. Any thread.
class UnrollService : public v1::UnrollService::CallbackService {
 public:
  // All pointers outlive the server that serves this.
  UnrollService(ActorStreams* streams, UnrollReceiver* receiver, SharedWeights* weights, CaptionTable* captions,
                Metrics* metrics);

  grpc::ServerBidiReactor<v1::LocalActorMessage, v1::LocalLearnerMessage>* Play(
      grpc::CallbackServerContext* context) override;

 private:
  friend class UnrollStream;

  ActorStreams* const streams_;
  UnrollReceiver* const receiver_;
  SharedWeights* const weights_;
  CaptionTable* const captions_;
  prometheus::Counter& weights_bytes_;
};

}  // namespace sibyl::learner
