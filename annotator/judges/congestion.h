#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "common/backoff.h"

namespace sibyl::annotator {

// How hard a server is driven. All three take the time as an argument and have no threads or locks of their own.

// Requests in flight: one more for each round of answers, half as many when the server shows that it has too much.
class ConcurrencyLimit {
 public:
  explicit ConcurrencyLimit(int max) : max_(max), limit_(std::max(1.0, max / 2.0)) {}

  int limit() const { return static_cast<int>(limit_); }
  void OnAnswer() { limit_ = std::min<double>(max_, limit_ + 1 / limit_); }
  // `sent`: when the request that met the overload was sent. Requests of one overload count once.
  void OnOverload(absl::Time sent, absl::Time now) {
    if (sent < halved_) return;
    limit_ = std::max(1.0, limit_ / 2);
    halved_ = now;
  }

 private:
  const double max_;
  double limit_;
  absl::Time halved_ = absl::InfinitePast();
};

// Retries may be a fifth of the requests, and 10 a second, so that they never multiply an outage.
class RetryBudget {
 public:
  void OnRequest() { tokens_ = std::min(kMost, tokens_ + 0.2); }
  // Takes one retry, if there is one.
  bool Take(absl::Time now) {
    if (last_ != absl::InfinitePast()) {
      tokens_ = std::min(kMost, tokens_ + 10 * std::max(0.0, absl::ToDoubleSeconds(now - last_)));
    }
    last_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  static constexpr double kMost = 10;
  double tokens_ = kMost;
  absl::Time last_ = absl::InfinitePast();
};

// Stops asking a server that does not answer. Half open it lets one probe through, whose outcome closes it or keeps it
// open for longer. It begins half open: the first probe finds out what the server is.
class CircuitBreaker {
 public:
  enum State { kClosed = 0, kHalfOpen = 1, kOpen = 2 };

  // Opens after `failures` in a row; waits as the backoff says, afresh after an answer to a query.
  CircuitBreaker(int failures, absl::Duration first_wait, absl::Duration longest_wait, uint64_t seed)
      : failures_to_open_(failures), backoff_(first_wait, longest_wait, seed) {}

  // kOpen turns into kHalfOpen when its time has come.
  State state(absl::Time now) {
    if (state_ == kOpen && now >= probe_at_) state_ = kHalfOpen;
    return state_;
  }
  absl::Time probe_at() const { return probe_at_; }

  void OnProbe(bool answered, absl::Time now) {
    if (answered) {
      state_ = kClosed;
      failures_ = 0;
    } else {
      Open(now);
    }
  }
  void OnAnswer() {
    failures_ = 0;
    backoff_.Reset();
  }
  void OnFailure(absl::Time now) {
    if (state_ == kClosed && ++failures_ >= failures_to_open_) Open(now);
  }
  // The server refuses one query after the other.
  void OnRefusals(absl::Time now) {
    if (state_ == kClosed) Open(now);
  }

 private:
  void Open(absl::Time now) {
    state_ = kOpen;
    probe_at_ = now + backoff_.Next();
  }

  const int failures_to_open_;
  Backoff backoff_;
  State state_ = kHalfOpen;
  int failures_ = 0;
  absl::Time probe_at_ = absl::InfinitePast();
};

}  // namespace sibyl::annotator
