#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "annotator/host.h"
#include "annotator/store/label_log.h"
#include "sibyl/v1/annotator.grpc.pb.h"

namespace sibyl::annotator {

// A store of labels: through the annotator that has it open, or by itself where none has. One thread.
class LabelsSource {
 public:
  // `where`: a run's folder, a store's file, postgresql://..., or an annotator's host:port. NotFound names what is not
  // there. FailedPrecondition: an annotator has the store open and does not say where it serves.
  static absl::StatusOr<std::unique_ptr<LabelsSource>> Open(const std::string& where, const Host& host);

  // Every entry of the log that is there now, in its order, with keys.
  absl::Status Read(const std::function<void(const v1::Label&)>& on_label);
  absl::StatusOr<v1::EditResponse> Edit(v1::EditRequest request);
  absl::StatusOr<v1::SpendingResponse> Spending();
  absl::StatusOr<v1::DescribeResponse> Describe();
  // The store's file; empty where it is known only by its annotator.
  const std::string& path() const { return path_; }
  absl::Status Close();

 private:
  std::string path_;
  std::unique_ptr<LabelLog> log_;  // or:
  std::unique_ptr<v1::AnnotatorService::Stub> stub_;
};

}  // namespace sibyl::annotator
