#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "common/random.h"

namespace sibyl {

// Exponential backoff with full jitter: the k-th wait is uniform in [first/2, min(limit, first * 2^k)].
class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration limit, uint64_t seed) : first_(first), limit_(limit), random_(seed) {}

  absl::Duration Next() {
    const absl::Duration top = std::min(limit_, first_ * (1 << std::min(attempt_++, 20)));
    return first_ / 2 + (top - first_ / 2) * random_.Uniform();
  }
  void Reset() { attempt_ = 0; }

 private:
  const absl::Duration first_, limit_;
  Random random_;
  int attempt_ = 0;
};

}  // namespace sibyl
