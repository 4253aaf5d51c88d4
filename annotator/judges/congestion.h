#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "common/backoff.h"

namespace sibyl::annotator {

// How hard a server is driven. Both take the time as an argument and have no threads or locks of their own.

// Requests in flight: twice as many each round of answers up to where the server last had too much, one more a round
// beyond, half as many when it has too much (TCP's slow start and congestion avoidance).
class ConcurrencyLimit {
 public:
  explicit ConcurrencyLimit(int max) : max_(max), limit_(std::max(1.0, max / 2.0)), threshold_(max) {}

  int limit() const { return static_cast<int>(limit_); }
  void OnAnswer() { limit_ = std::min<double>(max_, limit_ + (limit_ < threshold_ ? 1 : 1 / limit_)); }
  // `sent`: when the request that met the overload was sent. Requests of one overload count once.
  void OnOverload(absl::Time sent, absl::Time now) {
    if (sent < halved_) return;
    limit_ = threshold_ = std::max(1.0, limit_ / 2);
    halved_ = now;
  }
  // The server was away: it is asked one query first, and soon as many as before the outage.
  void OnReturn() {
    limit_ = 1;
    threshold_ = max_;
  }

 private:
  const double max_;
  double limit_;
  double threshold_;
  absl::Time halved_ = absl::InfinitePast();
};

// Stops asking a server that does not answer. Half open it lets a probe through, whose outcome closes it or keeps it
// open for longer. It begins half open: the first probe finds out what the server is. After an outage it closes on
// trial: one query goes out, and a failure of that one opens it again.
class CircuitBreaker {
 public:
  enum State { kClosed = 0, kHalfOpen = 1, kOpen = 2 };

  // Opens after `failures` in a row. The first probe goes out at once; later ones wait as the backoff says, afresh
  // after an answer to a query.
  CircuitBreaker(int failures, absl::Duration first_wait, absl::Duration longest_wait, uint64_t seed)
      : failures_to_open_(failures), backoff_(first_wait, longest_wait, seed) {}

  // kOpen turns into kHalfOpen when its time has come.
  State state(absl::Time now) {
    if (state_ == kOpen && now >= probe_at_) state_ = kHalfOpen;
    return state_;
  }
  absl::Time probe_at() const { return probe_at_; }
  // One query may be in flight, which shows whether the server answers queries.
  bool on_trial() const { return on_trial_; }

  void OnProbe(bool answered, absl::Time now) {
    if (!answered) {
      Open(now);
    } else if (state_ != kClosed) {
      state_ = kClosed;
      failures_ = 0;
      on_trial_ = opened_;
    }
  }
  void OnAnswer() {
    failures_ = 0;
    on_trial_ = false;
    opened_ = false;
    backoff_.Reset();
  }
  void OnFailure(absl::Time now) {
    if (state_ == kClosed && (on_trial_ || ++failures_ >= failures_to_open_)) Open(now);
  }
  // Opens now; the next probe goes out at `probe_at`, or when the backoff says where that is later.
  void Open(absl::Time now, absl::Time probe_at = absl::InfinitePast()) {
    state_ = kOpen;
    on_trial_ = false;
    probe_at_ = std::max(probe_at, opened_ ? now + backoff_.Next() : now);
    opened_ = true;
  }
  // The server asked for a pause: one query goes out after it.
  void GoOnTrial() {
    if (state_ == kClosed) on_trial_ = true;
  }

 private:
  const int failures_to_open_;
  Backoff backoff_;
  State state_ = kHalfOpen;
  bool on_trial_ = false;
  bool opened_ = false;  // since the last answer to a query
  int failures_ = 0;
  absl::Time probe_at_ = absl::InfinitePast();
};

}  // namespace sibyl::annotator
