#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::reward_model {

// What the reward model needs of an annotator. Requests and answers are those of annotator.proto; the implementation
// sets the protocol version. Any thread. Every call but Follow returns within a bounded time.
//
// Two errors stay however often the call is tried: InvalidArgument (a query is not acceptable) and FailedPrecondition
// (another protocol version). Other errors may pass.
class LabelSource {
 public:
  virtual ~LabelSource() = default;

  virtual absl::StatusOr<v1::DescribeResponse> Describe() = 0;
  virtual absl::StatusOr<v1::AskResponse> Ask(v1::AskRequest request) = 0;
  // Calls `on_batch` with batches of labels, on the calling thread, until the connection is lost or Cancel is called.
  // Returns why it ended, never OK.
  virtual absl::Status Follow(v1::LabelsRequest request,
                              const std::function<void(const v1::LabelBatch&)>& on_batch) = 0;
  // Ends the calls in progress and refuses later ones, all with Cancelled.
  virtual void Cancel() = 0;
};

}  // namespace sibyl::reward_model
