#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>

#include "common/mutex.h"

namespace sibyl::rpc {

// The server's side of a bidirectional stream. A subclass implements OnMessage and OnEnd.
//
// Threads: one gRPC thread at a time calls OnMessage. OnEnd is called once, after the last OnMessage. Any thread that
// holds a shared_ptr may call Send and Close, also within OnMessage and OnEnd.
template <typename In, typename Out>
class ServerStream : public grpc::ServerBidiReactor<In, Out>,
                     public std::enable_shared_from_this<ServerStream<In, Out>> {
 public:
  // `max_queued`: the most messages that wait to be written.
  explicit ServerStream(size_t max_queued) : max_queued_(max_queued) {}

  // Starts the stream. It keeps itself alive until gRPC is done with it. Call once, before returning it to gRPC.
  void Begin() {
    self_ = this->shared_from_this();
    this->StartRead(&in_);
  }

  // Queues a message. False: the stream is closed. A full queue closes the stream, because its peer does not read.
  bool Send(Out message) {
    MutexLock lock(mutex_);
    if (finished_) return false;
    if (out_.size() >= max_queued_) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the peer reads too slowly"));
      return false;
    }
    out_.push_back(std::move(message));
    if (out_.size() == 1) this->StartWrite(&out_.front());
    return true;
  }

  // Ends the stream; later calls do nothing. Messages that are still queued may be lost.
  void Close(const grpc::Status& status) {
    MutexLock lock(mutex_);
    Finish(status);
  }

 protected:
  // The message may be moved from.
  virtual void OnMessage(In& message) = 0;
  virtual void OnEnd() = 0;

 private:
  void Finish(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    finished_ = true;
    grpc::ServerBidiReactor<In, Out>::Finish(status);
  }

  void OnReadDone(bool ok) final {
    if (!ok) {
      Close(grpc::Status::OK);
      return;
    }
    OnMessage(in_);
    in_.Clear();
    MutexLock lock(mutex_);
    if (!finished_) this->StartRead(&in_);
  }

  void OnWriteDone(bool ok) final {
    MutexLock lock(mutex_);
    out_.pop_front();
    if (!ok) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the peer is gone"));
    } else if (!out_.empty() && !finished_) {
      this->StartWrite(&out_.front());
    }
  }

  void OnCancel() final { Close(grpc::Status::CANCELLED); }

  void OnDone() final {
    OnEnd();
    self_.reset();
  }

  const size_t max_queued_;
  In in_;
  std::shared_ptr<ServerStream> self_;
  Mutex mutex_;
  std::deque<Out> out_ ABSL_GUARDED_BY(mutex_);  // the front one is being written
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sibyl::rpc
