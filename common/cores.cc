#include "common/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using Reader = std::function<absl::StatusOr<std::string>(const std::string& path)>;

constexpr char kRoot[] = "/sys/fs/cgroup";

std::optional<double> Number(absl::string_view text) {
  double value = 0;
  if (!absl::SimpleAtod(absl::StripAsciiWhitespace(text), &value) || value <= 0) return {};
  return value;
}

// Cores of quota and period; nullopt where there is no limit ("max" or -1) or no such file.
std::optional<double> QuotaV2(const Reader& read, const std::string& folder) {
  const auto text = read(folder + "/cpu.max");
  if (!text.ok()) return {};
  const std::vector<std::string> parts = absl::StrSplit(*text, ' ');
  if (parts.size() != 2) return {};
  const auto quota = Number(parts[0]), period = Number(parts[1]);
  return quota && period ? std::optional(*quota / *period) : std::nullopt;
}

std::optional<double> QuotaV1(const Reader& read, const std::string& folder) {
  const auto quota_text = read(folder + "/cpu.cfs_quota_us"), period_text = read(folder + "/cpu.cfs_period_us");
  if (!quota_text.ok() || !period_text.ok()) return {};
  const auto quota = Number(*quota_text), period = Number(*period_text);
  return quota && period ? std::optional(*quota / *period) : std::nullopt;
}

// The group's folder and those above it, up to the root: each may have a quota. Inside a container the group's own path
// may be that of the host, which is not mounted; the root is then the container's.
template <typename Quota>
double LeastQuota(const Reader& read, const std::string& root, std::string group, const Quota& quota) {
  double least = INFINITY;
  while (true) {
    if (const auto cores = quota(read, root + group); cores.has_value()) least = std::min(least, *cores);
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return least;
    group.resize(slash);
  }
}

}  // namespace

int AvailableCores(int allowed, const Reader& read) {
  double cores = std::max(allowed, 1);
  // Lines are "0::/group" for version 2 and "4:cpu,cpuacct:/group" for version 1.
  const auto groups = read("/proc/self/cgroup");
  if (!groups.ok()) return static_cast<int>(cores);
  for (absl::string_view line : absl::StrSplit(*groups, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::string group = parts[2] == "/" ? "" : parts[2];
    if (parts[1].empty()) {
      cores = std::min(cores, LeastQuota(read, kRoot, group, QuotaV2));
      continue;
    }
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "cpu") == controllers.end()) continue;
    cores = std::min(cores, LeastQuota(read, absl::StrCat(kRoot, "/", parts[1]), group, QuotaV1));
    cores = std::min(cores, LeastQuota(read, absl::StrCat(kRoot, "/cpu"), group, QuotaV1));
  }
  return std::max(1, static_cast<int>(std::ceil(cores)));
}

std::vector<int> AllowedCores() {
  std::vector<int> cores;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;  // a set of a fixed size is too small for the host
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

int AvailableCores() {
  const size_t allowed = AllowedCores().size();
  // A host whose cores have no numbers here is counted as a whole.
  return AvailableCores(static_cast<int>(allowed > 0 ? allowed : std::thread::hardware_concurrency()),
                        [](const std::string& path) { return ReadFile(path); });
}

}  // namespace sibyl
