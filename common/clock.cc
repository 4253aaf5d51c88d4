#include "common/clock.h"

#include "absl/time/clock.h"

namespace sibyl {

Clock& Clock::Real() {
  class RealClock : public Clock {
   public:
    absl::Time Now() override { return absl::Now(); }
  };
  static auto& clock = *new RealClock();
  return clock;
}

}  // namespace sibyl
