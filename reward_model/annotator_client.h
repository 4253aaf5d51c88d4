#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "common/mutex.h"
#include "reward_model/label_source.h"
#include "sibyl/v1/annotator.grpc.pb.h"

namespace sibyl::reward_model {

// An annotator at "host:port". Any thread.
class AnnotatorClient : public LabelSource {
 public:
  explicit AnnotatorClient(const std::string& address);

  absl::StatusOr<v1::DescribeResponse> Describe() override;
  absl::StatusOr<v1::AskResponse> Ask(v1::AskRequest request) override;
  absl::Status Follow(v1::LabelsRequest request, const std::function<void(const v1::LabelBatch&)>& on_batch) override;
  void Cancel() override;

 private:
  // Runs a call so that Cancel reaches it.
  absl::Status Call(const std::function<grpc::Status(grpc::ClientContext&)>& call);

  const std::unique_ptr<v1::AnnotatorService::Stub> stub_;
  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::reward_model
