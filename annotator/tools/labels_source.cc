#include "annotator/tools/labels_source.h"

#include <filesystem>
#include <future>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "annotator/store/open_log.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

constexpr int kRows = 1000;  // of a log that are read at a time
constexpr absl::Duration kCallLimit = absl::Minutes(2);

std::unique_ptr<grpc::ClientContext> Context() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  return context;
}

template <typename Request>
Request Versioned() {
  Request request;
  request.set_protocol_version(kProtocolVersion);
  return request;
}

bool IsAddress(const std::string& where) {
  const size_t colon = where.rfind(':');
  return colon != std::string::npos && colon + 1 < where.size() && !absl::StrContains(where, '/') &&
         where.find_first_not_of("0123456789", colon + 1) == std::string::npos;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LabelsSource>> LabelsSource::Open(const std::string& where, const Host& host) {
  std::unique_ptr<LabelsSource> source(new LabelsSource);
  std::string address = IsAddress(where) ? where : "";
  if (address.empty()) {
    LogOptions options;
    options.store = where;
    options.capacity = 1'000'000'000;
    if (!IsPostgres(where)) {
      if (std::filesystem::is_directory(where)) options.store = where + "/labels.sqlite";
      if (!std::filesystem::exists(options.store)) {
        return absl::NotFoundError(
            absl::StrCat("there is no label store ", options.store,
                         "; name a run's folder, a store's file, postgresql://..., or an annotator's host:port"));
      }
      source->path_ = options.store;
    }
    auto log = OpenLog(options, host);
    if (log.ok()) {
      source->log_ = *std::move(log);
      return source;
    }
    const absl::StatusOr<std::string> served = ReadFile(options.store + ".address");
    if (!absl::IsFailedPrecondition(log.status()) || !served.ok()) return log.status();
    address = std::string(absl::StripAsciiWhitespace(*served));
  }
  source->stub_ = v1::AnnotatorService::NewStub(rpc::MakeChannel(address));
  return source;
}

absl::StatusOr<v1::DescribeResponse> LabelsSource::Describe() {
  v1::DescribeResponse response;
  if (log_ != nullptr) {
    response.set_labels(log_->last_sequence());
    response.set_waiting(log_->set_aside());
    response.set_log_id(log_->log_id());
    return response;
  }
  const auto context = Context();
  SIBYL_RETURN_IF_ERROR(rpc::FromGrpc(stub_->Describe(context.get(), Versioned<v1::DescribeRequest>(), &response)));
  return response;
}

absl::Status LabelsSource::Read(const std::function<void(const v1::Label&)>& on_label) {
  v1::LabelsRequest request = Versioned<v1::LabelsRequest>();
  request.set_from_sequence(1);
  request.set_with_keys(true);
  SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse described, Describe());
  if (log_ != nullptr) {
    while (request.from_sequence() <= described.labels()) {
      SIBYL_ASSIGN_OR_RETURN(const v1::LabelBatch batch, log_->Read(request, kRows));
      for (const v1::Label& label : batch.labels()) on_label(label);
      request.set_from_sequence(batch.next_sequence());
    }
    return absl::OkStatus();
  }
  grpc::ClientContext context;
  const auto stream = stub_->Labels(&context, request);
  v1::LabelBatch batch;
  bool complete = described.labels() == 0;
  while (!complete && stream->Read(&batch)) {
    for (const v1::Label& label : batch.labels()) {
      if (label.sequence() <= described.labels()) on_label(label);
    }
    complete = batch.next_sequence() > described.labels();
  }
  context.TryCancel();
  const grpc::Status status = stream->Finish();
  return complete ? absl::OkStatus() : rpc::FromGrpc(status);
}

absl::StatusOr<v1::EditResponse> LabelsSource::Edit(v1::EditRequest request) {
  v1::EditResponse response;
  if (log_ != nullptr) {
    std::promise<absl::StatusOr<EditResult>> promise;
    log_->Edit(std::move(request), [&](absl::StatusOr<EditResult> result) { promise.set_value(std::move(result)); });
    SIBYL_ASSIGN_OR_RETURN(const EditResult result, promise.get_future().get());
    response.set_changed(result.changed);
    return response;
  }
  request.set_protocol_version(kProtocolVersion);
  const auto context = Context();
  SIBYL_RETURN_IF_ERROR(rpc::FromGrpc(stub_->Edit(context.get(), request, &response)));
  return response;
}

absl::StatusOr<v1::SpendingResponse> LabelsSource::Spending() {
  if (log_ != nullptr) return log_->Spending();
  v1::SpendingResponse response;
  const auto context = Context();
  SIBYL_RETURN_IF_ERROR(rpc::FromGrpc(stub_->Spending(context.get(), Versioned<v1::SpendingRequest>(), &response)));
  return response;
}

absl::Status LabelsSource::Close() { return log_ != nullptr ? log_->Close() : absl::OkStatus(); }

}  // namespace sibyl::annotator
