#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl::learner {

// Takes the answers for one actor. The thread that serves the actor calls it; no call may block.
class ActorSink {
 public:
  virtual ~ActorSink() = default;
  virtual void RequestTexts(v1::CaptionTextRequest request) = 0;
  // The actor broke the contract, or the learner cannot serve it: ends its stream with the reason.
  virtual void Refuse(const absl::Status& status) = 0;
};

// Asks the actor for the texts of these captions, once each, and clears the list. An empty list asks nothing.
inline void RequestTexts(ActorSink& sink, std::vector<uint64_t>* textless) {
  if (textless->empty()) return;
  std::sort(textless->begin(), textless->end());
  v1::CaptionTextRequest request;
  request.mutable_ids()->Assign(textless->begin(), std::unique(textless->begin(), textless->end()));
  textless->clear();
  sink.RequestTexts(std::move(request));
}

}  // namespace sibyl::learner
