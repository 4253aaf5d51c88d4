#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace sibyl::cli {

// `count` distinct TCP ports that are free on 127.0.0.1 now, outside the range from which the kernel gives ports to
// outgoing connections: nothing takes one by chance while the process that listens on it is being replaced. The search
// starts at a place that `seed` determines. ResourceExhausted when there are not enough.
absl::StatusOr<std::vector<int>> FreePorts(int count, uint64_t seed);

// Something accepts connections on 127.0.0.1:`port`.
bool Listens(int port);

}  // namespace sibyl::cli
