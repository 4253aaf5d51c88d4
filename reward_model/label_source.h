#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::reward_model {

// What the reward model needs of an annotator. The requests and answers are the contract's own (annotator.proto);
// whoever implements this sets the protocol version. Any thread; every call returns within a bounded time, but for
// Follow.
//
// Errors that trying again does not mend: InvalidArgument (a query is not acceptable), FailedPrecondition (another
// protocol version). Anything else may pass.
class LabelSource {
 public:
  virtual ~LabelSource() = default;

  virtual absl::StatusOr<v1::DescribeResponse> Describe() = 0;
  virtual absl::StatusOr<v1::AskResponse> Ask(v1::AskRequest request) = 0;
  // Hands over batches of labels, on the calling thread, until the connection is lost or Cancel is called; never
  // returns OK.
  virtual absl::Status Follow(v1::LabelsRequest request,
                              const std::function<void(const v1::LabelBatch&)>& on_batch) = 0;
  // Ends the calls in progress and refuses later ones, all with Cancelled.
  virtual void Cancel() = 0;
};

}  // namespace sibyl::reward_model
