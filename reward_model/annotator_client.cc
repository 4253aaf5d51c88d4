#include "reward_model/annotator_client.h"

#include "absl/time/clock.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/status_macros.h"

namespace sibyl::reward_model {
namespace {

// An annotator answers at once; Ask may wait for its disk.
constexpr absl::Duration kDescribeLimit = absl::Seconds(5), kAskLimit = absl::Seconds(20);

}  // namespace

AnnotatorClient::AnnotatorClient(const std::string& address)
    : stub_(v1::AnnotatorService::NewStub(rpc::MakeChannel(address))) {}

absl::StatusOr<v1::DescribeResponse> AnnotatorClient::Describe() {
  v1::DescribeRequest request;
  request.set_protocol_version(kProtocolVersion);
  v1::DescribeResponse response;
  SIBYL_RETURN_IF_ERROR(Call([&](grpc::ClientContext& context) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + kDescribeLimit));
    return stub_->Describe(&context, request, &response);
  }));
  return response;
}

absl::StatusOr<v1::AskResponse> AnnotatorClient::Ask(v1::AskRequest request) {
  request.set_protocol_version(kProtocolVersion);
  v1::AskResponse response;
  SIBYL_RETURN_IF_ERROR(Call([&](grpc::ClientContext& context) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + kAskLimit));
    return stub_->Ask(&context, request, &response);
  }));
  return response;
}

absl::Status AnnotatorClient::Follow(v1::LabelsRequest request,
                                     const std::function<void(const v1::LabelBatch&)>& on_batch) {
  request.set_protocol_version(kProtocolVersion);
  const absl::Status ended = Call([&](grpc::ClientContext& context) {
    const auto stream = stub_->Labels(&context, request);
    v1::LabelBatch batch;
    while (stream->Read(&batch)) on_batch(batch);
    return stream->Finish();
  });
  return ended.ok() ? absl::UnavailableError("the annotator ended the stream of labels") : ended;
}

void AnnotatorClient::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : calls_) context->TryCancel();
}

absl::Status AnnotatorClient::Call(const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  grpc::ClientContext context;
  {
    MutexLock lock(mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
    calls_.insert(&context);
  }
  const grpc::Status status = call(context);
  MutexLock lock(mutex_);
  calls_.erase(&context);
  return rpc::FromGrpc(status);
}

}  // namespace sibyl::reward_model
