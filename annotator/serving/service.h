#pragma once

#include <memory>
#include <set>

#include "annotator/host.h"
#include "annotator/serving/annotator.h"
#include "common/mutex.h"
#include "common/runtime/worker.h"
#include "sibyl/v1/annotator.grpc.pb.h"

namespace sibyl::annotator {

// Translates between gRPC and the annotator; decides nothing.
class Service : public v1::AnnotatorService::CallbackService {
 public:
  explicit Service(const Host& host);
  ~Service() override;

  // Call once, before the server starts. The annotator must outlive the server.
  void Serve(Annotator& annotator) { annotator_ = &annotator; }

  // Labels were committed: every stream that waits sends them, from a thread of the service's own. Any thread; does not
  // block, and reads nothing from the log.
  void OnLabel();

  // Ends every stream, once it has sent all that is committed. New ones are refused.
  void CloseStreams();

 private:
  class LabelStream;

  grpc::ServerUnaryReactor* Ask(grpc::CallbackServerContext* context, const v1::AskRequest* request,
                                v1::AskResponse* response) override;
  grpc::ServerWriteReactor<v1::LabelBatch>* Labels(grpc::CallbackServerContext* context,
                                                   const v1::LabelsRequest* request) override;
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerUnaryReactor* Edit(grpc::CallbackServerContext* context, const v1::EditRequest* request,
                                 v1::EditResponse* response) override;
  grpc::ServerUnaryReactor* Spending(grpc::CallbackServerContext* context, const v1::SpendingRequest* request,
                                     v1::SpendingResponse* response) override;
  // Has the streams send labels that came, until the service ends.
  absl::Status SendLabels(const std::stop_token& stop);
  std::set<std::shared_ptr<LabelStream>> Streams();
  void Forget(const std::shared_ptr<LabelStream>& stream);

  Annotator* annotator_ = nullptr;
  Clock& clock_;
  prometheus::Gauge& streams_gauge_;
  Mutex mutex_;
  std::set<std::shared_ptr<LabelStream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar changed_;
  bool labels_came_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Heartbeat> heartbeat_;
  Worker sender_;  // last: uses all of the above
};

}  // namespace sibyl::annotator
