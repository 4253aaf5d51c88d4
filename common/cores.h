#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sibyl {

// Cores that this process may use, at least 1: those that its affinity allows (taskset, a container's cpuset), or fewer
// where the CPU quota of a control group is lower (docker --cpus, a Kubernetes limit); a part of a core counts as one.
int AvailableCores();

// The numbers of the cores that the affinity of the calling thread allows, ascending. They may be more than
// AvailableCores. Empty on a host of more than 1024 cores.
std::vector<int> AllowedCores();

// AvailableCores of `allowed` cores by affinity, with the files of /proc and /sys read by `read`.
int AvailableCores(int allowed, const std::function<absl::StatusOr<std::string>(const std::string& path)>& read);

}  // namespace sibyl
