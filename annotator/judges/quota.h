#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace sibyl::annotator {

// What may be asked of servers, and what it may cost. The classes take the time as an argument and have no threads or
// locks of their own.

// Most that is taken in any minute. A minute's amount is spread: a twentieth may be taken at once.
class RateLimit {
 public:
  // 0: no limit.
  explicit RateLimit(double per_minute)
      : per_minute_(per_minute), burst_(std::max(1.0, per_minute / 20)), left_(burst_) {}

  // When something may be taken; not after `now`: at once. Something that is larger than what may be taken at once is
  // taken when nothing else is owed.
  absl::Time ready_at(double amount, absl::Time now) {
    if (per_minute_ == 0) return now;
    Fill(now);
    const double missing = std::min(amount, burst_) - left_;
    return missing <= 0 ? now : now + absl::Minutes(missing / rate());
  }
  // Takes; a negative amount gives back what was taken and not used.
  void Take(double amount, absl::Time now) {
    if (per_minute_ == 0) return;
    Fill(now);
    left_ = std::min(burst_, left_ - amount);
  }

 private:
  double rate() const { return std::max(per_minute_ - burst_, per_minute_ / 2); }
  void Fill(absl::Time now) {
    if (filled_ != absl::InfinitePast()) {
      left_ = std::min(burst_, left_ + rate() * std::max(0.0, absl::ToDoubleMinutes(now - filled_)));
    }
    filled_ = now;
  }

  const double per_minute_;
  const double burst_;
  double left_;
  absl::Time filled_ = absl::InfinitePast();
};

// Whole days since 1970, UTC.
inline int64_t DayOf(absl::Time time) { return absl::ToUnixSeconds(time) / 86'400; }

// Most that is spent in a day (UTC).
class DailyBudget {
 public:
  // 0: no limit.
  explicit DailyBudget(double per_day) : per_day_(per_day) {}

  double per_day() const { return per_day_; }
  double spent(absl::Time now) {
    Turn(now);
    return spent_;
  }
  void Spend(double amount, absl::Time now) {
    Turn(now);
    spent_ += amount;
  }
  // When the next request, of that price, may be sent; not after `now`: at once.
  absl::Time ready_at(double price, absl::Time now) {
    return per_day_ == 0 || spent(now) + price <= per_day_ ? now : absl::FromUnixSeconds((day_ + 1) * 86'400);
  }

 private:
  void Turn(absl::Time now) {
    if (DayOf(now) <= day_) return;
    day_ = DayOf(now);
    spent_ = 0;
  }

  const double per_day_;
  int64_t day_ = 0;
  double spent_ = 0;
};

// What one request takes, expected before it is sent and known after it has ended.
struct Usage {
  double tokens = 0;
  double cost = 0;
};

// Limits of one server, or of all together. 0: no limit.
struct QuotaOptions {
  double requests_per_minute = 0;
  double tokens_per_minute = 0;  // prompt and completion
  double money_per_day = 0;
};

class Quota {
 public:
  explicit Quota(const QuotaOptions& options)
      : requests_(options.requests_per_minute), tokens_(options.tokens_per_minute), money_(options.money_per_day) {}

  // When such a request may be sent by the limits a minute.
  absl::Time ready_at(const Usage& expected, absl::Time now) {
    return std::max(requests_.ready_at(1, now), tokens_.ready_at(expected.tokens, now));
  }
  void OnSend(const Usage& expected, absl::Time now) {
    requests_.Take(1, now);
    tokens_.Take(expected.tokens, now);
    money_.Spend(expected.cost, now);
  }
  void OnEnd(const Usage& expected, const Usage& used, absl::Time now) {
    tokens_.Take(used.tokens - expected.tokens, now);
    money_.Spend(used.cost - expected.cost, now);
  }
  DailyBudget& money() { return money_; }

 private:
  RateLimit requests_;
  RateLimit tokens_;
  DailyBudget money_;
};

}  // namespace sibyl::annotator
