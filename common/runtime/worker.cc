#include "common/runtime/worker.h"

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace sibyl {

absl::Status CatchExceptions(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

Worker::Worker(std::string name, Body body, std::function<void(absl::Status)> on_failure)
    : thread_([name = std::move(name), body = std::move(body),
               on_failure = std::move(on_failure)](const std::stop_token& stop) {
        NameThread(name.c_str());
        const absl::Status status = CatchExceptions([&] { return body(stop); });
        if (!status.ok()) on_failure(absl::Status(status.code(), absl::StrCat(name, ": ", status.message())));
      }) {}

}  // namespace sibyl
