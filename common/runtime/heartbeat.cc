#include "common/runtime/heartbeat.h"

#include <algorithm>

#include "common/log.h"

namespace sibyl {

Heartbeat::Heartbeat(Heartbeats& owner, Clock& clock, std::string loop, absl::Duration limit,
                     prometheus::Gauge& silence)
    : owner_(owner), clock_(clock), loop_(std::move(loop)), limit_(limit), silence_(silence) {
  Beat();
}

Heartbeat::~Heartbeat() {
  MutexLock lock(owner_.mutex_);
  owner_.loops_.remove(this);
  silence_.Set(0);
}

std::unique_ptr<Heartbeat> Heartbeats::Add(const std::string& loop, absl::Duration limit) {
  prometheus::Gauge& silence = metrics_.Gauge(
      "sibyl_loop_silence_seconds", "Seconds since a loop of the process last gave a sign of life.", {{"loop", loop}});
  std::unique_ptr<Heartbeat> heartbeat(new Heartbeat(*this, clock_, loop, limit, silence));
  MutexLock lock(mutex_);
  loops_.push_back(heartbeat.get());
  return heartbeat;
}

absl::Duration Heartbeats::Silence(const Heartbeat& loop) const {
  const int64_t last = loop.last_micros_.load(std::memory_order_relaxed);
  return last == Heartbeat::kResting ? absl::ZeroDuration() : clock_.Now() - absl::FromUnixMicros(last);
}

void Heartbeats::Check() {
  MutexLock lock(mutex_);
  std::vector<std::string> hanging;
  for (const Heartbeat* loop : loops_) {
    const absl::Duration silence = Silence(*loop);
    loop->silence_.Set(absl::ToDoubleSeconds(silence));
    if (silence <= loop->limit_) continue;
    hanging.push_back(loop->loop_);
    if (std::find(hanging_.begin(), hanging_.end(), loop->loop_) == hanging_.end()) {
      spdlog::error("the loop `{}` has given no sign of life for {}: the process is not healthy", loop->loop_,
                    absl::FormatDuration(loop->limit_));
    }
  }
  for (const std::string& loop : hanging_) {
    if (std::find(hanging.begin(), hanging.end(), loop) == hanging.end()) spdlog::info("the loop `{}` is back", loop);
  }
  const bool changed = hanging.empty() != hanging_.empty();
  hanging_ = std::move(hanging);
  if (changed && on_health_) on_health_(hanging_.empty());
}

void Heartbeats::OnHealth(std::function<void(bool)> on_health) {
  MutexLock lock(mutex_);
  on_health_ = std::move(on_health);
  if (on_health_) on_health_(hanging_.empty());
}

}  // namespace sibyl
