#include "common/runtime/clock.h"

#include "absl/time/clock.h"

namespace sibyl {
namespace {

class RealClock : public Clock {
 public:
  absl::Time Now() override { return begin_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_begin_); }

  void WaitFor(CondVar& changed, Mutex& mutex, absl::Duration limit) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (limit == absl::InfiniteDuration()) {
      changed.Wait(mutex);
    } else if (limit > absl::ZeroDuration()) {
      changed.WaitFor(mutex, absl::ToChronoNanoseconds(limit));
    }
  }

 private:
  const std::chrono::steady_clock::time_point steady_begin_ = std::chrono::steady_clock::now();
  const absl::Time begin_ = absl::Now();
};

}  // namespace

Clock& Clock::Real() {
  static auto& clock = *new RealClock();
  return clock;
}

}  // namespace sibyl
