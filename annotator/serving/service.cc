#include "annotator/serving/service.h"

#include "absl/strings/str_cat.h"
#include "common/protocol.h"
#include "common/rpc/status.h"
#include "common/runtime/stop.h"

namespace sibyl::annotator {
namespace {

// Places of the log that one message of a stream covers, at most.
constexpr int kRowsABatch = 500;

absl::Status CheckVersion(uint32_t version) {
  if (version == kProtocolVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("protocol_version is ", version, ", this annotator speaks ",
                                                    kProtocolVersion, "; use the same build of sibyl on both sides"));
}

}  // namespace

// One caller of Labels. Writes one batch at a time, read from the store when the last one has gone out, so that a slow
// caller costs no memory.
class Service::LabelStream : public grpc::ServerWriteReactor<v1::LabelBatch>,
                             public std::enable_shared_from_this<LabelStream> {
 public:
  LabelStream(Service& service, const v1::LabelsRequest& request) : service_(service), request_(request) {}

  // Sends what is there. Call it when labels were committed, and once to begin.
  void Continue() {
    MutexLock lock(mutex_);
    Send();
  }
  // Ends the stream after what is committed.
  void FinishSoon() {
    MutexLock lock(mutex_);
    closing_ = true;
    Send();
  }
  void FinishNow(const grpc::Status& status) {
    MutexLock lock(mutex_);
    End(status);
  }

 private:
  void Send() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || writing_) return;
    auto batch = service_.annotator_->Read(request_, kRowsABatch);
    if (!batch.ok()) {
      End(rpc::ToGrpc(batch.status()));
      return;
    }
    // The first batch goes out in any case: it tells the caller that it is served, and how far the log reaches.
    if (begun_ && batch->next_sequence() <= request_.from_sequence()) {
      if (closing_) End({grpc::StatusCode::UNAVAILABLE, "the annotator is stopping; resume when it is back"});
      return;
    }
    begun_ = true;
    request_.set_from_sequence(batch->next_sequence());
    batch_ = *std::move(batch);
    writing_ = true;
    StartWrite(&batch_);
  }

  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) {
      End({grpc::StatusCode::UNAVAILABLE, "the caller is gone"});
    } else {
      Send();
    }
  }
  void OnCancel() override { FinishNow(grpc::Status::CANCELLED); }
  void OnDone() override { service_.Forget(shared_from_this()); }

  Service& service_;
  Mutex mutex_;
  v1::LabelsRequest request_ ABSL_GUARDED_BY(mutex_);  // from_sequence moves on
  v1::LabelBatch batch_;                               // gRPC's while writing_
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

Service::Service(const Host& host)
    : clock_(host.clock),
      streams_gauge_(host.metrics.Gauge("sibyl_annotator_label_streams", "Callers that follow the label log.")),
      heartbeat_(host.heartbeats.Add("labels", kLongestSilence)),
      sender_(
          "labels", [this](const std::stop_token& stop) { return SendLabels(stop); }, host.fail) {}

Service::~Service() = default;

grpc::ServerUnaryReactor* Service::Ask(grpc::CallbackServerContext* context, const v1::AskRequest* request,
                                       v1::AskResponse* response) {
  auto* reactor = context->DefaultReactor();
  if (auto status = CheckVersion(request->protocol_version()); !status.ok()) {
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
  annotator_->Ask(*request, [reactor, response](absl::StatusOr<v1::AskResponse> result) {
    if (result.ok()) *response = *std::move(result);
    reactor->Finish(rpc::ToGrpc(result.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* Service::Describe(grpc::CallbackServerContext* context, const v1::DescribeRequest* request,
                                            v1::DescribeResponse* response) {
  auto* reactor = context->DefaultReactor();
  const absl::Status status = CheckVersion(request->protocol_version());
  if (status.ok()) *response = annotator_->Describe();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* Service::Edit(grpc::CallbackServerContext* context, const v1::EditRequest* request,
                                        v1::EditResponse* response) {
  auto* reactor = context->DefaultReactor();
  if (auto status = CheckVersion(request->protocol_version()); !status.ok()) {
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }
  annotator_->Edit(*request, [reactor, response](absl::StatusOr<v1::EditResponse> result) {
    if (result.ok()) *response = *std::move(result);
    reactor->Finish(rpc::ToGrpc(result.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* Service::Spending(grpc::CallbackServerContext* context, const v1::SpendingRequest* request,
                                            v1::SpendingResponse* response) {
  auto* reactor = context->DefaultReactor();
  absl::Status status = CheckVersion(request->protocol_version());
  if (status.ok()) {
    auto spending = annotator_->Spending();
    status = spending.status();
    if (spending.ok()) *response = *std::move(spending);
  }
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

grpc::ServerWriteReactor<v1::LabelBatch>* Service::Labels(grpc::CallbackServerContext* context,
                                                          const v1::LabelsRequest* request) {
  auto stream = std::make_shared<LabelStream>(*this, *request);
  bool closing = false;
  {
    MutexLock lock(mutex_);
    streams_.insert(stream);
    streams_gauge_.Set(static_cast<double>(streams_.size()));
    closing = closing_;
  }
  if (auto status = CheckVersion(request->protocol_version()); !status.ok()) {
    stream->FinishNow(rpc::ToGrpc(status));
  } else if (closing) {
    stream->FinishSoon();
  } else {
    stream->Continue();
  }
  return stream.get();
}

std::set<std::shared_ptr<Service::LabelStream>> Service::Streams() {
  MutexLock lock(mutex_);
  return streams_;
}

void Service::Forget(const std::shared_ptr<LabelStream>& stream) {
  MutexLock lock(mutex_);
  streams_.erase(stream);
  streams_gauge_.Set(static_cast<double>(streams_.size()));
}

void Service::OnLabel() {
  MutexLock lock(mutex_);
  labels_came_ = true;
  changed_.NotifyAll();
}

absl::Status Service::SendLabels(const std::stop_token& stop) {
  const WakeOnStop wake(stop, mutex_, changed_);
  while (!stop.stop_requested()) {
    heartbeat_->Beat();
    {
      MutexLock lock(mutex_);
      if (!labels_came_ && !stop.stop_requested()) clock_.WaitFor(changed_, mutex_, absl::Seconds(1));
      if (!labels_came_) continue;
      labels_came_ = false;
    }
    for (const auto& stream : Streams()) stream->Continue();
  }
  return absl::OkStatus();
}

void Service::CloseStreams() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
  }
  for (const auto& stream : Streams()) stream->FinishSoon();
}

}  // namespace sibyl::annotator
