#include "common/shutdown.h"

#include <signal.h>

#include "common/log.h"

namespace sibyl {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

Shutdown::Shutdown() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  watcher_ = std::thread([this] { Watch(); });
}

Shutdown::~Shutdown() {
  stop_watching_ = true;
  watcher_.join();
}

void Shutdown::Watch() {
  NameThread("signals");
  const sigset_t set = StopSignals();
  const timespec poll = {0, 100'000'000};
  while (!stop_watching_) {
    const int signal = sigtimedwait(&set, nullptr, &poll);
    if (signal < 0) continue;
    if (requested()) _exit(130);  // asked twice: at once
    spdlog::info("{}: stopping", signal == SIGINT ? "SIGINT" : "SIGTERM");
    Request(absl::OkStatus());
  }
}

void Shutdown::Request(absl::Status reason) {
  MutexLock lock(mutex_);
  if (requested_) return;
  reason_ = std::move(reason);
  requested_ = true;
  changed_.NotifyAll();
}

void Shutdown::Fail(absl::Status reason) { Request(std::move(reason)); }
void Shutdown::Done() { Request(absl::OkStatus()); }

bool Shutdown::WaitFor(absl::Duration limit) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limit);
  MutexLock lock(mutex_);
  while (!requested_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left <= left.zero()) break;
    changed_.WaitFor(mutex_, left);
  }
  return requested_;
}

absl::Status Shutdown::reason() {
  MutexLock lock(mutex_);
  return reason_;
}

int Shutdown::ExitCode() {
  const absl::Status status = reason();
  if (status.ok()) return 0;
  spdlog::error("{}", status.ToString());
  return 1;
}

}  // namespace sibyl
