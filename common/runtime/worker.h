#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"

namespace sibyl {

// A thread with a name and an ending. The body's error, or the exception that it throws, reaches `on_failure`: no
// thread fails in silence.
class Worker {
 public:
  // The body returns soon after its token's stop is requested. OK: the work is done, or was told to stop.
  using Body = std::function<absl::Status(std::stop_token stop)>;

  // `name`: at most 15 characters, as top and gdb show it. `on_failure` is called on the thread, at most once, with a
  // status whose message begins with the name; Ending::Fail is the usual one.
  Worker(std::string name, Body body, std::function<void(absl::Status)> on_failure);
  // Requests the stop and waits for the end.
  ~Worker() = default;

  void RequestStop() { thread_.request_stop(); }
  // Waits for the end; for the owner's thread only. Later calls do nothing.
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::jthread thread_;
};

// Calls `body` and turns an exception into an Internal error.
absl::Status CatchExceptions(const std::function<absl::Status()>& body);

}  // namespace sibyl
